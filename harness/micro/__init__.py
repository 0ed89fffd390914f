"""The embedded world: a procedural picture world and a really-trained miniature of Stable Diffusion."""
