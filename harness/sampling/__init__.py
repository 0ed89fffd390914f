"""A batch of items in, images out."""
