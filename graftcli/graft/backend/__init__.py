"""Precision, memory format, BatchNorm policy and frozen copies."""
