"""Training tasks: what moves, towards which target, and how it is judged."""
