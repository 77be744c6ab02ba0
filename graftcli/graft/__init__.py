"""Network grafting: seams and scions, training, merging. Reads no flags and prints nothing."""
