"""What `medcli sample` does."""
