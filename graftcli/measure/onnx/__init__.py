"""ONNX files, described and run in a child process with limits."""
