"""Scores of sample sets against a reference."""
