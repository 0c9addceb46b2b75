"""What a project tells usagekit; without USAGEKIT_BACKEND the recorder does nothing."""

from __future__ import annotations

from typing import Any

from usagekit import Recorder

recorder = Recorder()


def identify(request: Any) -> object:
    """Say who asks."""
    return request.user.username
