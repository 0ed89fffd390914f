"""General helpers: files, leases, readers with limits, the hub's cache, the terminal."""
