"""What the environment says of recording."""

from __future__ import annotations

import os

from usagekit.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["backends_from_environment", "switch"]


def switch(name: str, *, default: bool) -> bool:
    """Give whether an environment variable says on or off; `default` where it says nothing."""
    value = os.environ.get(name, "").strip().lower()
    if value in {"", "1", "true", "yes", "on"}:
        return default if value == "" else True
    if value in {"0", "false", "no", "off"}:
        return False
    msg = f"{name}={value!r} is neither on nor off; use 1 or 0"
    raise ConfigurationError(msg)


def backends_from_environment() -> tuple[Any, ...]:
    """Give the backends that `USAGEKIT_BACKEND` names."""
    urls = [url.strip() for url in os.environ.get("USAGEKIT_BACKEND", "").split(",") if url.strip()]
    if not urls:
        return ()
    from usagekit.backends import backend_from_url

    return tuple(backend_from_url(url) for url in urls)
