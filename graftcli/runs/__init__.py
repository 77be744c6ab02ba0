"""One distillation: its config, its preparation, running and resuming it, and its result."""
