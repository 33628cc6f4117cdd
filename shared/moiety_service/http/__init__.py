"""HTTP apps and servers as every service runs them, and the one place that makes HTTP clients."""
