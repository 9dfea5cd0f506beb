"""Preference data, scorers, and their accuracy."""
