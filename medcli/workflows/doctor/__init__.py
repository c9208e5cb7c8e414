"""What `medcli doctor` does."""
