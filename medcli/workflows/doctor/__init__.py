"""Workflow of `medcli doctor`."""
