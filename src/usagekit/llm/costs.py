"""What a call's event says of its cost: what was reported, else what the recorder's prices make of its usage."""

from __future__ import annotations

from time import time_ns

from usagekit import _clean
from usagekit.event import dollars, from_microseconds
from usagekit.llm.prices import Prices
from usagekit.llm.usage import Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from usagekit.recorder import Recorder

__all__ = ["cost_of", "priced_fields", "public_prices"]

_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")

public_prices = Prices()
"""For recorders without prices of the app's own."""


def cost_of(  # noqa: PLR0917  half of what a stream's end costs is its arguments
    recorder: Recorder,
    usage: Usage,
    provider: str,
    model: str,
    time_us: int,
    totals: tuple[int, int, int, int, int],
    status: int,
    *,
    is_estimated: bool = False,
) -> tuple[int | None, str]:
    """Give what a call costs in nano-dollars, None = not known or no cost applies, and the event's `cost_source`.

    Never raises: a price that fails is counted, and must not cost the tokens.

    Args:
        recorder: whose own prices win over public ones.
        usage: what the call used; a cost in it wins over every price.
        provider: whose price list.
        model: as the provider names it.
        time_us: when the call began, microseconds since 1970: prices change.
        totals: `usage.totals()`, or an estimate instead of it.
        status: HTTP status; a failed call that tells of no usage costs nothing.
        is_estimated: whether `totals` are an estimate.
    """
    if usage.cost_usd is not None:
        cost, source = _clean.nano_dollars(usage.cost_usd), "reported"
    elif (
        not (is_estimated or usage.is_reported)
        and usage.details is None
        and usage.quantity is None
        and (status >= 400 or recorder.prices is None or not recorder.prices.may_charge_by_call(provider, model))
    ):
        return None, "" if status >= 400 else "unpriced"
    else:
        cost, source = None, "estimated" if is_estimated else "priced"
        try:
            cost = (recorder.prices or public_prices).nano_dollars(usage, provider, model, time_us, totals)
        except Exception as error:  # noqa: BLE001  a price that fails must not cost the tokens
            recorder.guard.caught("llm: price", error)
    return cost, source if cost is not None else "unpriced"


def priced_fields(  # noqa: PLR0917  what `record_tokens` was told
    recorder: Recorder,
    provider: object,
    model: object,
    time: object,
    status: object,
    tokens: tuple[object, object, object, object, object],
    cost_usd: object,
) -> dict[str, Any]:
    """Give the fields of an event that say what a call used, when, and what it costs.

    Counts are brought to ones that can be, as those of responses are; no tokens at all are none that were reported.
    """
    counts = tuple(map(_clean.whole, tokens))
    usage = Usage(cost_usd=cost_usd, **(dict(zip(_TOKENS, counts, strict=True)) if any(counts) else {}))
    time_us = _clean.epoch_microseconds(time)
    if time_us is None:
        time_us = time_ns() // 1000
    totals = usage.totals()
    cost, source = cost_of(
        recorder,
        usage,
        _clean.text(provider, _clean.MODEL_LIMIT),
        _clean.text(model, _clean.MODEL_LIMIT),
        time_us,
        totals,
        _clean.whole(status, _clean.STATUS_LIMIT),
    )
    return dict(zip(_TOKENS, totals, strict=True)) | {
        "time": from_microseconds(time_us),
        "cost_usd": None if cost is None else dollars(cost),
        "cost_source": source,
    }
