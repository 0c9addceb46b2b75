"""What a call's event says of its cost: what was reported, else what the recorder's prices make of its usage."""

from __future__ import annotations

from usagekit import _clean
from usagekit.llm.prices import Prices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from usagekit.llm.usage import Usage
    from usagekit.recorder import Recorder

__all__ = ["cost_of", "public_prices"]

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
    elif not (is_estimated or usage.is_reported) and usage.details is None and usage.quantity is None:
        return None, "" if status >= 400 else "unpriced"
    else:
        cost, source = None, "estimated" if is_estimated else "priced"
        try:
            cost = (recorder.prices or public_prices).nano_dollars(usage, provider, model, time_us, totals)
        except Exception as error:  # noqa: BLE001  a price that fails must not cost the tokens
            recorder.guard.caught("llm: price", error)
    return cost, source if cost is not None else "unpriced"
