"""Choosing layers, ladder and thresholds: a space of configurations, tables that replay them, runs that confirm."""
