"""Loading a language model, and its parts."""
