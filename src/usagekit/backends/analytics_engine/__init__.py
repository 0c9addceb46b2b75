"""Cloudflare Workers Analytics Engine: writing to it, asking it, and running it on your own machine."""
