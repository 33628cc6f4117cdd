"""The vectors of docs/spec/client.md: `python -m tests.vectors` makes them with the Python client."""
