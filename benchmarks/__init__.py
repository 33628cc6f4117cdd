"""Measures the service, as ratios taken in one run. The wheel does not contain this package."""
