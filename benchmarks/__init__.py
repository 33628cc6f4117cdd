"""Measurements of the service, as ratios taken in one run. Not part of the wheel."""
