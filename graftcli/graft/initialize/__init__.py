"""Weights before training: inherited, copied or solved by least squares."""
