"""Scores, records and the rows that check the metrics."""
