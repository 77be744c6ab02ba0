"""Find cuts, measure the cost of blocks, and plan how two networks are paired."""
