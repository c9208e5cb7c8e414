"""When an image climbs its ladder. Torch-free: floats in, an index out."""
