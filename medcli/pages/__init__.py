"""Self-contained HTML pages without scripts; templates escape all text."""
