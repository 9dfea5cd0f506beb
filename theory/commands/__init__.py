"""The commands that need no language model."""
