"""Cells: who they are, what is to be done for them, and what is on disk of them."""
