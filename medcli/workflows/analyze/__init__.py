"""Redundancy of attention and change of latents during sampling."""
