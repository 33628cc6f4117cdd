"""Saved folders with tiny random weights, and what Hugging Face's own code answers with them."""
