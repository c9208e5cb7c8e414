"""Candidates of `tune`, their runs, the store of measurements, and fitted solvers."""
