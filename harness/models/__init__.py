"""A pipeline in memory: which files a config means, whether they are whole, loading them, parts of one's own."""
