"""ONNX files: reading, writing, checking, and one canonical form."""
