"""Videos from checkpoints: dubbing, activation maps."""
