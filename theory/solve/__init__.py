"""Optimal policies, endogenous rewards and exact adversaries."""
