"""Grafting and merging: seams, adapters, folding, hybrids."""
