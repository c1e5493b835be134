"""A run: its folder, its clocks, its checkpoints and what it tells."""
