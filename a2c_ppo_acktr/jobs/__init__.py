"""Processes that train, a few at a time."""
