"""ONNX files: read without trust, and turned into the compiler's operations."""
