"""The program on a CUDA device that is not there, and what tests of it share."""
