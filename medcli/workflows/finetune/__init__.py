"""What `medcli finetune` does."""
