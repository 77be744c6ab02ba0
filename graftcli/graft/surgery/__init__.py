"""Grafting and folding: seams, adapters, merging, hybrids."""
