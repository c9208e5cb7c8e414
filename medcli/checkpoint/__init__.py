"""Checkpoints of every layout: read without trust, changed without copying, written whole or not at all."""
