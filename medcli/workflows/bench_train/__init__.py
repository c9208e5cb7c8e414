"""What `medcli bench --train` does."""
