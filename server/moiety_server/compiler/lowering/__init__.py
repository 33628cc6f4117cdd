"""Lowers the float graph to a plan: each node becomes layers, at the scale that was chosen for it."""
