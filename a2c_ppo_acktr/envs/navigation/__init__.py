"""The built-in task: find a hidden platform in a square arena."""
