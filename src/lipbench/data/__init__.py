"""Corpora, one file each, and the road from raw files to batches."""
