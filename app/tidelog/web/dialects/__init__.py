"""Wire formats of the WebSocket: how frames are written and messages are read."""
