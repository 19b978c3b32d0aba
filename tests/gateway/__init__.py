"""The gateway: REST, access, limits; WebSocket and event streams; the page."""
