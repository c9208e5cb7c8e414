"""What touches the machine: files, noise, imports, reports."""
