"""Films of episodes, and pictures without a display."""
