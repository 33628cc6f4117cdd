"""The model owner: turns a torch model into a plan and shares, uploads them, and publishes the catalogue."""
