"""The HTTP apps and servers that every service runs, and the one place that makes HTTP clients."""
