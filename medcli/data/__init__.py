"""Images, latents and the bundled digits."""
