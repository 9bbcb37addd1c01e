"""HTTP and WebSocket: steps as controllers, the socket, its dialects, health."""
