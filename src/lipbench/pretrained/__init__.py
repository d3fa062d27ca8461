"""Weights files: their format, the published ones, and those that come along."""
