"""What a model's logits say: rewards, trees, beams, rollouts."""
