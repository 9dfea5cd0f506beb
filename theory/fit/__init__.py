"""Policies and rewards learned from data."""
