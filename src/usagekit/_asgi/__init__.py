"""One request or websocket of an ASGI app while it is in flight: what the middleware keeps of it."""
