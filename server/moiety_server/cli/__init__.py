"""The model owner's commands."""
