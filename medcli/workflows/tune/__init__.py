"""What `medcli tune` does."""
