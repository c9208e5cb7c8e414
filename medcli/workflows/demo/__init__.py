"""Demonstration on a bundled model."""
