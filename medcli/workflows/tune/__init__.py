"""Workflow of `medcli tune`."""
