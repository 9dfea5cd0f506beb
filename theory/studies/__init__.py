"""Families of instances, sweeps over them, and searches."""
