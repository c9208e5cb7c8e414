"""Workflow of `medcli finetune`."""
