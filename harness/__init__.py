"""A distributed benchmark harness for responsible text-to-image models."""

from harness.lib.old_names import install

__version__ = "0.1.0"

install()
