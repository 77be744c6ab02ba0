"""Derive students from a teacher by specs such as `prune:l1=0.5`, keeping its weights where possible."""
