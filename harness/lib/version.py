"""The version of the harness; builds read it here."""

__version__ = "0.1.0"
