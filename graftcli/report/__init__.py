"""HTML reports of runs and comparisons: self-contained files that open offline."""
