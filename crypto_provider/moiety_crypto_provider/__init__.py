"""The crypto provider. It deals correlated randomness, each bundle once, and sees nothing else."""
