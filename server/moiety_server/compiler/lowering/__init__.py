"""The float graph lowered to a plan: each node becomes layers, at the scale that was chosen for it."""
