"""Grids of runs: cells, budgets, fingerprints and cached scores."""
