"""Reads ONNX files without trusting them, and turns them into the compiler's operations."""
