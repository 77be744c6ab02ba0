"""Weight initialisation: inherited, copied, or solved by least squares."""
