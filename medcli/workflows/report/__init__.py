"""What `medcli report` does."""
