"""The method: seams and scions, merging, training. Knows no paths and no terminal."""
