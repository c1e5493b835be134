"""Where experiments are set up and trained agents looked at, mostly from notebooks."""
