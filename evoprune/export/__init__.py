"""What leaves a run: into one's own code, and faster."""
