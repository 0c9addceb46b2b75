"""Model calls: what they used, what they cost, and whom they count for.

`track_tokens` and `Recorder.model_call` record them; `Usage` is what an extractor fills in. `reprice` prices what
had no price when it was recorded.
"""

from __future__ import annotations

from usagekit.llm.tracking import ModelCall, track_tokens
from usagekit.llm.usage import Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from usagekit.llm.repricing import Repriced, reprice

__all__ = ["ModelCall", "Repriced", "Usage", "reprice", "track_tokens"]


def __getattr__(name: str) -> object:
    if name not in {"Repriced", "reprice"}:
        msg = f"module 'usagekit.llm' has no attribute {name!r}"
        raise AttributeError(msg)
    from usagekit.llm import repricing  # needs the store, which tracking does not

    return getattr(repricing, name)
