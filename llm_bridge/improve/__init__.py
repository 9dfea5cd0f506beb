"""PPO on an endogenous reward."""
