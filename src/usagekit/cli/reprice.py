"""`usagekit reprice`: price the model calls that had no price when they were recorded."""

from __future__ import annotations

import json
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from usagekit._store.engine import status_of
from usagekit.cli import DONE, LEFT
from usagekit.cli.files import text_of
from usagekit.cli.progress import Progress
from usagekit.cli.source import explained, ledger
from usagekit.cli.table import Column, fitting, print_table
from usagekit.cli.wording import counted, format_of, shown_key
from usagekit.errors import ConfigurationError
from usagekit.llm.repricing import reprice as reprice_ledger

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from usagekit.llm.repricing import Repriced

_EXAMPLE = '{"my-model": {"input": 1.25, "output": 10}}'


def reprice(arguments: argparse.Namespace) -> int:
    """Price what is unpriced, and say what became of it."""
    path = ledger(arguments.db)
    prices = None if arguments.prices is None else _own_prices(arguments.prices)
    with Progress("pricing") as progress:
        models = reprice_ledger(
            path,
            since=arguments.since,
            until=arguments.until,
            tz=arguments.tz,
            models=arguments.model,
            prices=prices,
            dry_run=arguments.dry_run,
            progress=progress.show,
        )
    if arguments.format == "json":
        told = [
            asdict(model) | {"cost_usd": None if model.cost_usd is None else f"{model.cost_usd:f}"} for model in models
        ]
        print(json.dumps({"ledger": path, "dry_run": arguments.dry_run, "models": told}))
    else:
        _show(models, path, dry_run=arguments.dry_run)
    return LEFT if any(model.held for model in models) else DONE


def _own_prices(file: str) -> Mapping[str, object]:
    text = text_of("--prices", file)
    try:
        prices = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        raise ConfigurationError(f"{file!r} is no JSON: {error}; write {_EXAMPLE}") from error
    if not isinstance(prices, dict):
        raise ConfigurationError(f"{file!r} holds no prices; write an object with a price for each model: {_EXAMPLE}")
    return prices


def _show(models: list[Repriced], path: str, *, dry_run: bool) -> None:
    priced, held = sum(model.priced for model in models), sum(model.held for model in models)
    if models:
        _show_table(models)
    if dry_run:
        print(f"would price {counted(priced, 'call')} in {path}; nothing was changed")
    else:
        print(f"priced {counted(priced, 'call')} in {path}")
    if unpriced := sum(model.unpriced for model in models):
        print(f"{counted(unpriced, 'call')} without a known price; give one with --prices FILE: {_EXAMPLE}")
    if held:
        print(f"{counted(held, 'call')} left alone while a sink is being sent them; run this again later")
    with explained(path):
        waiting = status_of(path, ())["waiting"]
    if waiting["bytes"]:
        size, files = counted(waiting["bytes"], "byte"), counted(waiting["journals"], "journal")
        print(f"not looked at: {size} in {files}; usagekit drain imports them")


def _show_table(models: list[Repriced]) -> None:
    keys = [Column(name, [shown_key(name, getattr(one, name)) for one in models], "") for name in ("provider", "model")]
    keys[0].total = "total"
    names = ["priced", "cost_usd", "unpriced"] + ["held"] * any(model.held for model in models)
    columns = [_column(name, [getattr(model, name) for model in models]) for name in names]
    for table in fitting(keys, columns):
        print_table(table)


def _column(name: str, values: list[Any]) -> Column:
    known = [value for value in values if value is not None]
    shown = format_of(name, [*known, sum(known)])
    cells = ["-" if value is None else shown(value) for value in values]
    return Column(name, cells, shown(sum(known)) if known else "-", right=True)
