"""What `medcli bench` does."""
