"""What keeps a run exact and safe: position, state, checkpoints, stopping, and guards, the same for every stage."""
