"""What a model call costs: the app's own prices first, then those of genai-prices where that is installed.

A model's prices are looked up once for each provider, model, tier and day, and turned into whole numbers of
attodollars (10^-18) per token, one set for each size of prompt the provider tells apart. Costs are then integer
arithmetic: exact, and a thousand times faster than a look-up. What is not linear, or priced apart (audio, images,
searches), is asked of genai-prices each time.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from copy import copy
from decimal import Decimal, localcontext
from time import time_ns
from typing import NamedTuple

from usagekit import _clean
from usagekit._loading import loading
from usagekit._options import refuse
from usagekit.errors import ConfigurationError
from usagekit.llm.own_prices import checked, lowered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from usagekit.llm.usage import Usage

__all__ = ["Prices"]

ATTO = 10**18
_NANO_IN_ATTO = 10**9
_HALF = _NANO_IN_ATTO // 2
_DAY_US = 86_400_000_000
_MINUTE_US = 60_000_000
_FOR_EVER_US = 2**62
_KEPT = 4096  # looked-up models; above it the cache starts afresh
_MILLION = 1_000_000
_PROBE = 100  # tokens added to a prompt to see what they cost

_DATED = re.compile(r"[-@](20\d\d-\d\d-\d\d|20\d{6})$")


class _Rates(NamedTuple):
    """Attodollars per token for prompts of one size."""

    request: int
    input: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    output: int
    reasoning: int


class _Pricing(NamedTuple):
    """How one model is priced for a while. `begins` are the prompt sizes above which the next rates hold."""

    since_us: int
    until_us: int
    begins: tuple[int, ...]
    rates: tuple[_Rates, ...]
    unit: Decimal | None = None  # dollars per metered unit
    exact: Callable[[Usage, tuple[int, int, int, int, int]], int | None] | None = None


_UNKNOWN = _Pricing(0, _FOR_EVER_US, (), ())


class Prices:
    """Prices of models, and what a call costs by them. Any thread may ask; it lives as long as its recorder.

    Args:
        own: prices of the app's own, which win over any other, by model (`"my-model"`) or by provider and model
            (`"azure/my-deployment"`). A price is a mapping, in US dollars per million tokens: `input`, `output`,
            `cache_read`, `cache_write`, `cache_write_1h`, `reasoning`; `request` is dollars per call, `unit` dollars
            per metered unit (a second, a page). Caches cost what input costs and reasoning what output costs, unless
            said otherwise. `above={200_000: {…}}` holds what differs for prompts of more tokens than that, and
            `tiers={"flex": {…}, "batch": {…}}` what differs in a service tier, for prompts of any size; what differs
            for a size and a tier stands in the one inside the other. A price that is a string is an alias:
            `"my-deployment": "azure/gpt-5-mini"`, the provider and its model, or a model of the call's own provider.
            A call of which nothing is known costs something only where `request` is all there is to pay.

    Raises:
        ConfigurationError: a price that cannot be one.
    """

    def __init__(self, own: Mapping[str, object] | None = None) -> None:
        if own is not None and not hasattr(own, "items"):
            refuse(
                "prices", own, "is no mapping", "prices by model: prices={'my-model': {'input': 1.25, 'output': 10}}"
            )
        self._own = {lowered(name): checked(name, price) for name, price in (own or {}).items()}
        for name, price in self._own.items():
            meant = lowered(price) if isinstance(price, str) else name
            if meant != name and isinstance(self._own.get(meant), str):
                msg = f"the price of {name!r} is an alias of {price!r}, which is an alias too; name the model itself"
                raise ConfigurationError(msg)
        self._is_by_call = any("request" in price for price in self._own.values())
        self._known: dict[tuple[str, str, object, int], _Pricing] = {}
        self._latest: dict[str, tuple[str, Mapping[str, str] | None, int, int, _Pricing]] = {}  # by model
        self._snapshot: object = None
        self._checked_until_us = 0

    def nano_dollars(
        self,
        usage: Usage,
        provider: str,
        model: str,
        time_us: int,
        totals: tuple[int, int, int, int, int],
    ) -> int | None:
        """Give what a call costs in whole nano-dollars, half to even; None = no price is known for what it used.

        Args:
            usage: what the call used.
            provider: whose price list.
            model: as the provider names it.
            time_us: when the call began, microseconds since 1970: prices change.
            totals: `usage.totals()`, or an estimate instead of it.
        """
        _, _, begins, rates, unit, exact = pricing = self._pricing(provider, model, usage.context, time_us)
        if not (
            totals[0]
            or totals[1]
            or (unit is not None and usage.quantity is not None)
            or usage.details is not None
            or usage.is_reported
        ):
            # What was used is not known, or has no price of its own: it is the call itself that may have one.
            return _rounded(rates[0].request) if unit is None and rates and _is_by_request(rates[0]) else None
        if usage.aside is not None:
            return self._nano_dollars_apart(pricing, usage, provider, model, time_us, totals)
        if exact is not None and (usage.details is not None or not rates):
            return exact(usage, totals)
        if not rates:
            return None
        if begins:
            # Of several requests none need have been so long as all together: rather too little than too much.
            size = totals[0] if usage.requests == 1 else 0
            return _linear(rates[bisect_left(begins, size)], unit, usage, totals)
        return _linear(rates[0], unit, usage, totals)

    def plain_nano_dollars(
        self,
        provider: str,
        model: str,
        context: Mapping[str, str] | None,
        time_us: int,
        totals: tuple[int, int, int, int, int],
    ) -> int | None:
        """Give what a call costs that used tokens and nothing else; see `nano_dollars`."""
        _, _, begins, rates, _, exact = self._pricing(provider, model, context, time_us)
        if not rates:
            return None if exact is None else _asked(exact, context, totals)
        request, per_input, per_read, per_write, _, per_output, per_reasoning = (
            rates[bisect_left(begins, totals[0])] if begins else rates[0]
        )
        input_tokens, output_tokens, read, write, reasoning = totals
        atto = (
            request
            + (input_tokens - read - write) * per_input
            + output_tokens * per_output
            + read * per_read
            + write * per_write
            + reasoning * (per_reasoning - per_output)
        )
        return _rounded(atto)

    def may_charge_by_call(self, provider: str, model: str) -> bool:
        """Tell whether a call may have a price of the app's own of which no usage is known; loads nothing."""
        return self._is_by_call and self._own_price(provider, model) is not None

    def _nano_dollars_apart(  # noqa: PLR0917  those of `nano_dollars`
        self,
        pricing: _Pricing,
        usage: Usage,
        provider: str,
        model: str,
        time_us: int,
        totals: tuple[int, int, int, int, int],
    ) -> int | None:
        """Price what was used on the side by the sizes of its own prompts; the call is charged for once."""
        nano = 0
        input_tokens, output_tokens, read, write, reasoning = totals
        aside = usage.aside
        while aside is not None:
            one = copy(aside)
            one.aside, one.context = None, usage.context
            its = one.totals()
            if pricing.rates:
                rates = pricing.rates[bisect_left(pricing.begins, its[0])]
                cost: int | None = _linear(rates._replace(request=0), None, one, its)
            else:
                cost = None if pricing.exact is None else pricing.exact(one, its)
            if cost is None:
                return None
            nano += cost
            input_tokens, output_tokens = max(0, input_tokens - its[0]), max(0, output_tokens - its[1])
            read, write, reasoning = max(0, read - its[2]), max(0, write - its[3]), max(0, reasoning - its[4])
            aside = aside.aside
        main = copy(usage)
        main.aside = None
        rest = input_tokens, output_tokens, read, write, reasoning
        cost = self.nano_dollars(main, provider, model, time_us, rest)
        return None if cost is None else min(_clean.COUNT_LIMIT, nano + cost)

    def _pricing(self, provider: str, model: str, context: Mapping[str, str] | None, time_us: int) -> _Pricing:
        latest = self._latest.get(model)
        if latest is not None:
            its_provider, its_context, since_us, until_us, pricing = latest
            is_same = its_provider == provider and (its_context is context or its_context == context)
            if is_same and since_us <= time_us < until_us:
                return pricing
        if time_us >= self._checked_until_us:
            self._check(time_us)
        day = time_us // _DAY_US
        key = (provider, model, None if context is None else tuple(sorted(context.items())), day)
        known = self._known.get(key)
        if known is not None and known.since_us <= time_us < known.until_us:
            pricing = known
        else:
            pricing = self._look_up(key, provider, model, context, time_us)
        since_us = max(pricing.since_us, day * _DAY_US)
        until_us = min(pricing.until_us, (day + 1) * _DAY_US, self._checked_until_us)
        self._latest[model] = provider, context, since_us, until_us, pricing
        return pricing

    def _check(self, time_us: int) -> None:
        """Forget what was looked up in price data that a running `genai_prices.UpdatePrices` has replaced."""
        # By the clock where a call has a time in the future, or its minute would never pass.
        self._checked_until_us = min(time_us, time_ns() // 1000) + _MINUTE_US
        if self._snapshot is None:
            return
        snapshot = _snapshot()
        if snapshot is not self._snapshot:
            self._known.clear()
            self._latest.clear()
            self._snapshot = snapshot

    def _look_up(
        self,
        key: tuple[str, str, object, int],
        provider: str,
        model: str,
        context: Mapping[str, str] | None,
        time_us: int,
    ) -> _Pricing:
        pricing = self._own_pricing(provider, model, context)
        if not isinstance(pricing, _Pricing):
            ways = [(provider, model)] if pricing is None else _meant_by(pricing, provider)
            found = (self._pricing_as(*way, context, time_us) for way in ways)
            pricing = next((one for one in found if one is not _UNKNOWN), _UNKNOWN)
        if len(self._known) >= _KEPT:
            self._known.clear()
            self._latest.clear()
        self._known[key] = pricing
        return pricing

    def _pricing_as(self, provider: str, model: str, context: Mapping[str, str] | None, time_us: int) -> _Pricing:
        own = self._own_pricing(provider, model, context)
        if isinstance(own, _Pricing):
            return own
        with loading:  # which genai-prices goes on with at its first answers
            if self._snapshot is None:
                self._snapshot = _snapshot()
            return _public_pricing(self._snapshot, provider, model, context, time_us)

    def _own_pricing(self, provider: str, model: str, context: Mapping[str, str] | None) -> _Pricing | str | None:
        price = self._own_price(provider, model)
        return price if price is None or isinstance(price, str) else _own_rates(price, context)

    def _own_price(self, provider: str, model: str) -> Mapping[str, Any] | str | None:
        if not self._own:
            return None
        model = lowered(model)
        undated = _DATED.sub("", model)
        for name in (f"{lowered(provider)}/{model}", model, f"{lowered(provider)}/{undated}", undated):
            price = self._own.get(name)
            if price is not None:
                return price
        return None


def _linear(rates: _Rates, unit: Decimal | None, usage: Usage, totals: tuple[int, int, int, int, int]) -> int:
    request, per_input, per_read, per_write, per_hour, per_output, per_reasoning = rates
    input_tokens, output_tokens, read, write, reasoning = totals
    hour = usage.cache_write_1h_tokens
    atto = request + (input_tokens - read - write) * per_input + output_tokens * per_output
    if read:
        atto += read * per_read
    if write:
        atto += write * per_write
        if hour:
            atto += min(hour, write) * (per_hour - per_write)
    if reasoning:
        atto += reasoning * (per_reasoning - per_output)
    if unit is not None and usage.quantity:
        with localcontext() as exact:
            exact.prec = 60
            atto += int(unit * Decimal(repr(usage.quantity)) * ATTO)
    return _rounded(atto)


def _asked(
    exact: Callable[[Usage, tuple[int, int, int, int, int]], int | None],
    context: Mapping[str, str] | None,
    totals: tuple[int, int, int, int, int],
) -> int | None:
    from usagekit.llm.usage import Usage

    return exact(Usage(context=context), totals)


def _is_by_request(rates: _Rates) -> bool:
    return rates.request > 0 and not any(rates[1:])


def _rounded(atto: int) -> int:
    nano, rest = divmod(atto, _NANO_IN_ATTO)
    if rest >= _HALF and (rest > _HALF or nano & 1):
        nano += 1
    return min(_clean.COUNT_LIMIT, nano)


# The app's own prices


def _meant_by(alias: str, provider: str) -> list[tuple[str, str]]:
    """Give the providers and models that an alias may mean, likelier ones first: models' names have slashes too."""
    before, separator, after = alias.partition("/")
    return [(before, after), (provider, alias)] if separator else [(provider, alias)]


def _own_rates(price: Mapping[str, Any], context: Mapping[str, str] | None) -> _Pricing:
    tiers = [lowered(tier) for tier in (context or {}).values()]
    differing = [price, *(price["tiers"][tier] for tier in tiers if tier in price.get("tiers", {}))]
    begins = tuple(sorted({begin for one in differing for begin in one.get("above", {})}))
    sizes = [_price_at(price, begin, tiers) for begin in (-1, *begins)]
    return _Pricing(0, _FOR_EVER_US, begins, tuple(map(_rates_of, sizes)), unit=sizes[0].get("unit"))


def _price_at(price: Mapping[str, Any], begin: int, tiers: list[str]) -> dict[str, Any]:
    """Give the price of prompts that are longer than `begin`: what a tier says wins over what a size says."""
    parts = _parts_at(price, begin)
    told = {name: value for part in parts for name, value in part.items()}
    for tier in tiers:
        for part in parts:
            if tier in part.get("tiers", {}):
                for its in _parts_at(part["tiers"][tier], begin):
                    told |= its
    return told


def _parts_at(price: Mapping[str, Any], begin: int) -> list[Mapping[str, Any]]:
    return [price, *(one for start, one in price.get("above", {}).items() if start <= begin)]


def _rates_of(price: Mapping[str, Any]) -> _Rates:
    nothing = Decimal(0)
    per_input, per_output = price.get("input", nothing), price.get("output", nothing)
    write = price.get("cache_write", per_input)
    parts = (per_input, price.get("cache_read", per_input), write, price.get("cache_write_1h", write), per_output)
    with localcontext() as exact:
        exact.prec = 60
        request = int(price.get("request", nothing) * ATTO)
        per_token = [int(part * (ATTO // _MILLION)) for part in (*parts, price.get("reasoning", per_output))]
    return _Rates(request, *per_token)


# genai-prices


def _snapshot() -> object:
    """Give the price data in use; None without the extra."""
    try:
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return None
    return get_snapshot()


def _public_pricing(
    snapshot: Any, provider: str, model: str, context: Mapping[str, str] | None, time_us: int
) -> _Pricing:
    if snapshot is None or not model:
        return _UNKNOWN
    try:
        its_provider, its_model = snapshot.find_provider_model(model, None, provider or None, None)
    except LookupError:
        return _UNKNOWN
    listed = _Listed(its_provider, its_model, context, time_us)
    begins = listed.begins()
    rates = [listed.rates(begin, end) for begin, end in zip((0, *begins), (*begins, None), strict=True)]
    since, until = listed.validity()
    known = tuple(one for one in rates if one is not None)
    is_linear = len(known) == len(rates) and listed.is_by_token()
    return _Pricing(since, until, begins if is_linear else (), known if is_linear else (), exact=listed.exact)


class _Listed:
    """One model's price in genai-prices, asked at one moment."""

    def __init__(self, provider: Any, model: Any, context: Mapping[str, str] | None, time_us: int) -> None:
        from datetime import UTC, datetime

        self.provider = provider
        self.model = model
        self.context = dict(context) if context else None
        self.time_us = time_us
        self.when = datetime.fromtimestamp(time_us // _MILLION, UTC)

    def dollars(self, **units: float) -> Decimal:
        """Give what so many units cost, at whatever precision the host's own decimal context has."""
        from genai_prices import Usage as PublicUsage

        with localcontext() as exact:
            exact.prec = 60
            price = self.model.calc_price(
                PublicUsage(**units),
                self.provider,
                genai_request_timestamp=self.when,
                price_context=self.context,
            )
            total: Decimal = price.total_price
            return total

    def begins(self) -> tuple[int, ...]:
        """Give the prompt sizes above which other prices hold."""
        prices = self.model.get_prices(self.when, self.context)
        tiers = (getattr(price, "tiers", None) or () for price in vars(prices).values())
        return tuple(sorted({int(tier.start) for some in tiers for tier in some}))

    def is_by_token(self) -> bool:
        """Tell whether tokens have a price at all, be it 0: some models are paid by the second or the page."""
        prices = vars(self.model.get_prices(self.when, self.context))
        return any(name.endswith("_mtok") and price is not None for name, price in prices.items())

    def validity(self) -> tuple[int, int]:
        """Give from when until when these prices hold: a day, or a minute where they follow the time of day."""
        conditional = self.model.prices if isinstance(self.model.prices, list) else ()
        constraints = [one.constraint for one in (*conditional, *(self.model.price_variants or ()))]
        step = _MINUTE_US if any(hasattr(one, "start_time") for one in constraints) else _DAY_US
        since = self.time_us - self.time_us % step
        return since, since + step

    def rates(self, begin: int, end: int | None) -> _Rates | None:
        """Give the prices per token of prompts above `begin` tokens; None where they are not linear."""
        size = begin + 1000
        if end is not None and size + 2 * _PROBE > end:
            return None
        request = self.dollars()
        base = self.dollars(input_tokens=size)
        per_input = self.dollars(input_tokens=size + _PROBE) - base
        read = self.dollars(input_tokens=size, cache_read_tokens=_PROBE) - base + per_input
        write = self.dollars(input_tokens=size, cache_write_tokens=_PROBE) - base + per_input
        hour = (
            self.dollars(input_tokens=size, cache_write_tokens=_PROBE, cache_write_1h_tokens=_PROBE) - base + per_input
        )
        output = self.dollars(input_tokens=size, output_tokens=_PROBE) - base
        reasoning = self.dollars(input_tokens=size, output_tokens=_PROBE, output_reasoning_tokens=_PROBE) - base
        per_token = [part * (ATTO // _PROBE) for part in (per_input, read, write, hour, output, reasoning)]
        if any(part != int(part) for part in per_token):
            return None
        rates = _Rates(int(request * ATTO), *map(int, per_token))
        return rates if self._agrees(rates, size) else None

    def _agrees(self, rates: _Rates, size: int) -> bool:
        totals = (size + 57, 4321, 31, 17, 1234)
        asked = self.dollars(
            input_tokens=totals[0],
            output_tokens=totals[1],
            cache_read_tokens=totals[2],
            cache_write_tokens=totals[3],
            cache_write_1h_tokens=5,
            output_reasoning_tokens=totals[4],
        )
        from usagekit.llm.usage import Usage

        return _linear(rates, None, Usage(cache_write_1h_tokens=5), totals) == _clean.nano_dollars(asked)

    def exact(self, usage: Usage, totals: tuple[int, int, int, int, int]) -> int | None:
        """Give the nano-dollars of a call with units that are priced apart, or by a price that is not linear."""
        input_tokens, output_tokens, read, write, reasoning = totals
        units: dict[str, float] = {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cache_read_tokens": read,
            "cache_write_tokens": write,
            "cache_write_1h_tokens": min(usage.cache_write_1h_tokens or 0, write),
            "output_reasoning_tokens": reasoning,
        }
        units = {name: value for name, value in units.items() if value}
        if usage.details is None and not self.is_by_token():
            return None
        known = _priced_units()
        apart = {name: value for name, value in (usage.details or {}).items() if name in known}
        try:
            return _clean.nano_dollars(self.dollars(**units, **apart))
        except ValueError:
            # Overlapping units that nobody reported: cached audio, say. The plain ones are near enough.
            if not self.is_by_token():
                return None
            return _clean.nano_dollars(self.dollars(**units))


def _priced_units() -> frozenset[str]:
    from genai_prices import types

    return frozenset(types._reported_usage_keys())  # noqa: SLF001  unknown units would warn
