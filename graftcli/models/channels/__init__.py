"""Find the channels of a network that belong together."""
