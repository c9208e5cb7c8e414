"""Paths from noise to data: interpolants, Gaussian diffusion, one step of every sampler, guidance and losses."""
