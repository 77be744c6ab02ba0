"""A run's report: one HTML file that opens from disk, with everything that it shows inside it."""
