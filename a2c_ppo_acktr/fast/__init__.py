"""Faster ways to compute what is defined elsewhere."""
