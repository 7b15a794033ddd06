"""Evolution: generations of masks, by DEAP's variation and selection."""
