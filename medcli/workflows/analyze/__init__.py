"""What `medcli analyze` does."""
