"""Workflow of `medcli bench`."""
