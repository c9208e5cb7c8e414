"""Teaching a ladder."""
