"""The same work on other queues. These files run in the peers' own virtual environments, where nothing of ours is installed."""
