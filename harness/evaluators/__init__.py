"""Evaluators: one file each. Constructors are cheap; weights are loaded by `setup`."""
