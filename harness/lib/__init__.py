"""What would serve any project: files, leases, readers with limits, the hub's cache, the terminal."""
