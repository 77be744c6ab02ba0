"""Where a network can be cut, what its blocks cost, and the plan that pairs two networks."""
