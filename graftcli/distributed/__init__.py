"""Several processes that share one job, as torchrun starts them: who does what, and what they exchange."""
