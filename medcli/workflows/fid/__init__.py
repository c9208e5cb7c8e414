"""What `medcli fid` does."""
