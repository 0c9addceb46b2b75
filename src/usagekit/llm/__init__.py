"""Model calls: what they used, what they cost, and whom they count for.

`track_tokens` and `Recorder.model_call` record them; `Usage` is what an extractor fills in.
"""

from __future__ import annotations

from usagekit.llm.tracking import ModelCall, track_tokens
from usagekit.llm.usage import Usage

__all__ = ["ModelCall", "Usage", "track_tokens"]
