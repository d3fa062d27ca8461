"""Corpora by name: how each lies on disk, its protocols and its license."""
