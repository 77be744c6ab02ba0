"""Training: tasks, trainers, losses, optimisers, and the judging of results."""
