"""The one diffusion transformer. Counts, grids and families are values of its configuration."""
