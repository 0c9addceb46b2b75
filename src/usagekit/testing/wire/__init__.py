"""The wire formats of model providers, one module per family: a request and an `Answer` in, bytes out."""
