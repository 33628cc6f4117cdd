"""The crypto provider: deals correlated randomness, each bundle once, and sees nothing else."""
