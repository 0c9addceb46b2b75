"""One module per family of responses: each reads usage out of objects and dictionaries of its shape."""
