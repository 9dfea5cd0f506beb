"""The statements on a pair of models, exact and sampled."""
