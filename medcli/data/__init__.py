"""Images, latents and the bundled data sets."""
