"""Frames, samples, landmarks and tokens: what they are and how they are read and written."""
