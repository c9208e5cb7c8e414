"""Schedules of mediator counts, torch-free."""
