"""Export networks to ONNX and PT2; every file is checked against PyTorch before it is written."""
