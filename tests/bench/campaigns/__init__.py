"""Campaigns against the laws of the README: kills, faults of the disk, damaged files, many runs in one process."""
