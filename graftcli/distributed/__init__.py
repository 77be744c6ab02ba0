"""Several processes that share one job started by torchrun: which process does what, and what they exchange."""
