"""Evaluation: the brief training of masks, its fitness terms, and the evidence for informed mutation."""
