"""Student networks made out of a teacher, with its weights wherever they are kept: specs like `prune:l1=0.5`."""
