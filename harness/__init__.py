"""A distributed benchmark harness for responsible text-to-image models."""

__version__ = "0.1.0"
