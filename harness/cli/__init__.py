"""The commands, and how their words become configurations."""
