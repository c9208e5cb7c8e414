"""Triton kernels for CUDA devices; every one has an equal in plain torch, which runs where Triton does not."""
