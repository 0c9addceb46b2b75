"""Cloudflare Workers Analytics Engine: writing to it, asking it, and running it on your own machine."""

from __future__ import annotations

from usagekit.backends.analytics_engine.layout import Layout

__all__ = ["Layout"]
