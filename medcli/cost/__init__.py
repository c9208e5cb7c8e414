"""Multiply-accumulate operations of networks, counted and in closed form."""
