"""Workflow of `medcli sample`."""
