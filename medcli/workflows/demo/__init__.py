"""Demonstration on the bundled model."""
