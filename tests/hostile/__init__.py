"""Hostile input, made by code: documents, images, checkpoints, archives, ONNX files, kills and damage."""
