"""What models inherit: optimization, checkpoints, exact resume, adversaries, lip readers."""
