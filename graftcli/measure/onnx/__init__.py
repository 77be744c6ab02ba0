"""Describe and run ONNX files, in a child process with limits."""
