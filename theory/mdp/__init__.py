"""Token MDPs, policies, and what follows from them without optimising."""
