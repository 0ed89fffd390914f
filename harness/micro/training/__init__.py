"""Training of the embedded world's parts."""
