"""Model specifications, checkpoints and saved networks -> modules."""
