"""Bounds, statements, and verdicts on them."""
