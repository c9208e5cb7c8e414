"""Charts on matplotlib, as SVG and PNG."""
