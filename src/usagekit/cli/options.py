"""Every command's options. Nothing is imported here but what says them, so that `--help` is there at once."""

from __future__ import annotations

import argparse
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

FAILED = 2  # as the exit code of a command line that is not understood

PERIOD = "7d"
TIMEOUT_SECONDS = 300.0
HOST, PORT = "127.0.0.1", 8321
SERVE_PORT = 8791
SERVE_SECONDS = 10.0
UPKEEP_SECONDS = 3600.0


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and explains at length only when asked to."""

    def __init__(self, *, explain: Callable[[], str] | None = None, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._explain = explain

    def format_help(self) -> str:
        if self._explain is not None:
            self.epilog = self._explain()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Give what reads a command line; `command` of what it reads is the module and function to call."""
    from usagekit import __version__

    made = _Parser(prog="usagekit", description="Who uses your app, how much, and what it costs.")
    made.add_argument("--version", action="version", version=f"usagekit {__version__}")
    commands = made.add_subparsers(required=True, metavar="COMMAND", dest="name", title="commands")
    for add in (
        *(_add_report, _add_statement, _add_export, _add_sql, _add_serve),
        *(_add_status, _add_drain, _add_rollup, _add_purge, _add_erase, _add_reprice),
        *(_add_analytics_engine, _add_backfill, _add_reconcile, _add_backends),
    ):
        add(commands)
    return made


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="who used what, how much, and at which cost",
        description="Who used what, how much, and at which cost: by default each user of the last seven days.",
        explain=_algebra,
    )
    _add_ledger(parser, "the ledger, the file that the app's SQLiteBackend has")
    names = "dimensions and time buckets; '' for one row [user]"
    _add_question(parser, by=names, measures="what to count; 'all' [what the terminal has room for]")
    _add_format(parser, "table", "json", "csv")
    parser.set_defaults(command="report:report")


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="events, or the rows of a report, as CSV or JSON lines",
        description="Write events one by one, or with --by the rows of a report, for other programs to read.",
        explain=_algebra,
    )
    _add_ledger(parser, "the ledger")
    _add_format(parser, "csv", "jsonl")
    parser.add_argument("--output", metavar="PATH", help="the file to write; it is replaced [stdout]")
    names = "export a report by these dimensions and time buckets; '' for one row"
    _add_question(parser, by=names, measures="what such a report counts [all]")
    parser.set_defaults(command="export:export")


def _add_question(parser: argparse.ArgumentParser, *, by: str, measures: str) -> None:
    option = parser.add_argument
    option("--by", action="append", metavar="NAMES", help=by)
    option("--measures", action="append", metavar="NAMES", help=measures)
    option("--period", help=f"24h, 7d, ...: exactly so long, until now; 'all' for everything [{PERIOD}]")
    option(
        "--days", type=_whole(1, "1 is today"), metavar="N", help="the last N calendar days of the zone, today included"
    )
    option("--start", metavar="WHEN", help="inclusive: a date in the zone, or a time with an offset")
    option("--end", metavar="WHEN", help="exclusive: likewise")
    option("--tz", default="UTC", metavar="ZONE", help="IANA name of the zone for dates, buckets and times [UTC]")
    option(
        "--where",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="keep only these; once more with the same name for another value; NAME= for what is unknown",
    )
    option("--order", metavar="NAME", help="of rows: a measure or one of --by, with - in front for descending")
    option(
        "--limit",
        type=_whole(1, "leave it out for all rows"),
        metavar="N",
        help="at most so many rows; totals do not know it",
    )
    _add_timeout(parser)
    option("--origin", default="direct", help="direct: what this app recorded; backfill: brought in [direct]")


def _add_statement(commands: Any) -> None:
    parser = commands.add_parser(
        "statement",
        help="one customer's month, as a bill needs it",
        description="What one customer used in one month: a line per day and route, model or event type, and totals.",
    )
    option = parser.add_argument
    _add_ledger(parser, "the ledger")
    customer = parser.add_mutually_exclusive_group(required=True)
    customer.add_argument("--org", metavar="ID", help="the organisation it is for; or")
    customer.add_argument("--user", metavar="ID", help="the user it is for")
    option("--month", required=True, metavar="YYYY-MM", help="the month, by the calendar of the zone")
    option("--by", default="route", metavar="NAME", help="what lines are by: route, model or event [route]")
    option("--tz", default="UTC", metavar="ZONE", help="IANA name of the customer's zone [UTC]")
    _add_timeout(parser)
    _add_format(parser, "table", "json", "csv")
    parser.set_defaults(command="statement:statement")


def _add_serve(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="the usage page, on its own",
        description="Serve the usage page until Ctrl-C, for who has the token: that of USAGEKIT_ADMIN_TOKEN, "
        "or one that is made up and printed.",
    )
    _add_ledger(parser, "the ledger")
    parser.add_argument("--host", type=_host, default=HOST, help=f"the address to listen at [{HOST}]")
    parser.add_argument("--port", type=_port, default=PORT, metavar="N", help=f"0 for any that is free [{PORT}]")
    parser.set_defaults(command="serve:serve")


def _add_sql(commands: Any) -> None:
    parser = commands.add_parser(
        "sql",
        help="ask the ledger in the SQL of Analytics Engine",
        description="Answer one statement in the SQL of Cloudflare's Analytics Engine from the ledger.",
    )
    parser.add_argument("statement", metavar="STATEMENT", help="SELECT or SHOW TABLES; - to read it from stdin")
    _add_ledger(parser, "the ledger")
    _add_dataset(parser)
    _add_format(parser, "table", "json", "csv")
    parser.set_defaults(command="sql:sql")


def _add_analytics_engine(commands: Any) -> None:
    about = "a local Analytics Engine on a ledger, for development"
    parser = commands.add_parser("analytics-engine", help=about, description=f"Run {about}.")
    option = parser.add_argument
    option("action", choices=["serve"], help="answer Analytics Engine's SQL API over HTTP until stopped")
    _add_ledger(parser, "the ledger")
    _add_dataset(parser)
    option("--host", type=_host, default="127.0.0.1", help="where to listen [127.0.0.1]")
    option("--port", type=_port, default=SERVE_PORT, metavar="N", help=f"0 for a free one [{SERVE_PORT}]")
    option("--token", help="what a client must bring [CLOUDFLARE_API_TOKEN, else any]")
    option("--timeout", type=_seconds, default=SERVE_SECONDS, metavar="SECONDS", help="for one query [10]")
    parser.set_defaults(command="analytics_engine:serve")


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a table, and the JSON file with its layout; may be repeated [usagekit, with the default layout]",
    )


def _add_status(commands: Any) -> None:
    about = "what a ledger holds, and what still waits"
    parser = commands.add_parser("status", help=about, description=f"Tell {about}.")
    _add_ledger(parser, "the ledger")
    _add_format(parser, "text", "json")
    parser.set_defaults(command="status:status")


def _add_drain(commands: Any) -> None:
    parser = commands.add_parser(
        "drain",
        help="import what processes left in their journals",
        description="Import all that waits in journals, also of processes that died, and remove what they left.",
    )
    _add_ledger(parser, "the ledger")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help=f"give up, with exit code 1, when something is left after so long [{TIMEOUT_SECONDS:g}]",
    )
    parser.set_defaults(command="drain:drain")


def _add_rollup(commands: Any) -> None:
    about = "bring the rollups up to date, so that questions are fast"
    parser = commands.add_parser("rollup", help=about, description=f"{about.capitalize()}.")
    _add_ledger(parser, "the ledger")
    parser.add_argument("--rebuild", action="store_true", help="make them anew from all events that are still there")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=UPKEEP_SECONDS,
        metavar="SECONDS",
        help=f"stop, with exit code 1, after so long; the next run goes on there [{UPKEEP_SECONDS:g}]",
    )
    parser.set_defaults(command="upkeep:rollup")


def _add_purge(commands: Any) -> None:
    about = "remove old events, and give their space back"
    parser = commands.add_parser("purge", help=about, description=f"{about.capitalize()}; rollups still count them.")
    _add_ledger(parser, "the ledger")
    parser.add_argument(
        "--older-than", metavar="90d", help="remove events older than so many days [USAGEKIT_RETENTION_DAYS]"
    )
    parser.add_argument("--rollups-older-than", metavar="800d", help="and rollups older than so many [keep them]")
    parser.set_defaults(command="upkeep:purge")


def _add_erase(commands: Any) -> None:
    parser = commands.add_parser(
        "erase",
        help="remove a user's id; their events stay, as nobody's",
        description="Remove a user's id from the ledger, its journals and dead letters. The events stay, as nobody's.",
    )
    _add_ledger(parser, "the ledger")
    parser.add_argument("--user", required=True, metavar="ID", help="the id, as it was recorded")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help=f"give up after so long; run it again to complete it [{TIMEOUT_SECONDS:g}]",
    )
    parser.set_defaults(command="erase:erase")


def _add_backfill(commands: Any) -> None:
    about = "bring what another backend holds of a day into the ledger"
    parser = commands.add_parser(
        "backfill",
        help=about,
        description=f"{about[0].upper()}{about[1:]}, apart from what was recorded: report --origin backfill shows it.",
    )
    _add_source(parser)
    option = parser.add_argument
    option("--by", action="append", metavar="NAMES", help="dimensions to keep, the others are summed up [all]")
    option("--per", metavar="NAME", help="ask once for each value of this dimension, as org or user [once in all]")
    parser.set_defaults(command="backfill:backfill")


def _add_reconcile(commands: Any) -> None:
    about = "how far the ledger and another backend are apart"
    parser = commands.add_parser("reconcile", help=about, description=f"Tell {about}, by day and dimensions.")
    _add_source(parser)
    option = parser.add_argument
    option("--by", action="append", metavar="NAMES", help="dimensions to compare, besides the day")
    option("--tolerance", type=_percent, default=0.0, metavar="PERCENT", help="what is no drift yet [0]")
    option("--all", action="store_true", help="show also what is within the tolerance")
    _add_format(parser, "table", "json")
    parser.set_defaults(command="backfill:reconcile")


def _add_source(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--from", dest="source", required=True, metavar="URL", help="a backend: analytics-engine://dataset")
    option("--layout", metavar="FILE", help="the JSON file with the dataset's layout [the default layout]")
    option("--day", metavar="DAY", help="of UTC: yesterday, today, 2026-11-20 [yesterday]")
    option("--days", type=_whole(1, "1 is yesterday"), metavar="N", help="the last N days of UTC before today")
    _add_ledger(parser, "the ledger")


def _add_backends(commands: Any) -> None:
    parser = commands.add_parser("backends", help="which backends are installed, and what each can do")
    _add_format(parser, "table", "json")
    parser.set_defaults(command="backends:backends")


def _add_reprice(commands: Any) -> None:
    parser = commands.add_parser(
        "reprice",
        help="price the model calls that had no price when they were recorded",
        description="Price the unpriced model calls of a ledger, each as of its own time; a cost that is there stays.",
    )
    option = parser.add_argument
    _add_ledger(parser, "the ledger")
    option("--since", required=True, metavar="WHEN", help="inclusive: a date in the zone, or a time with an offset")
    option("--until", metavar="WHEN", help="exclusive: likewise [now]")
    option("--tz", default="UTC", metavar="ZONE", help="IANA name of the zone for dates [UTC]")
    option(
        "--model", action="append", default=[], metavar="NAME", help="only this model; also PROVIDER/MODEL; repeatable"
    )
    option(
        "--prices", metavar="FILE", help="your own prices, JSON as of Recorder(prices=...); they win over public ones"
    )
    option("--dry-run", action="store_true", help="say what would be priced, and change nothing")
    _add_format(parser, "table", "json")
    parser.set_defaults(command="reprice:reprice")


def _add_ledger(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--db", metavar="PATH", help=f"{what} [USAGEKIT_BACKEND, else USAGEKIT_PATH]")


def _add_format(parser: argparse.ArgumentParser, *formats: str) -> None:
    parser.add_argument("--format", choices=formats, default=formats[0], help=f"how to show it [{formats[0]}]")


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="give up when the answer takes longer [never]"
    )


def _whole(least: int, advice: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        with suppress(ValueError):
            if int(text) >= least:
                return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on; {advice}")

    return read


def _port(text: str) -> int:
    with suppress(ValueError):
        if 0 <= int(text) <= 65_535:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port; use a number from 1 to 65535, or 0 for a free one")


def _host(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is no address; use {HOST}, or 0.0.0.0 for all of this machine's")
    return text


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no time limit; use seconds, more than 0")


def _percent(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no tolerance; use a percentage, 0 or more")


def _algebra() -> str:
    import textwrap

    from usagekit.query import BUCKETS, DIMENSIONS, MEASURES

    names = {"dimensions": DIMENSIONS, "time buckets": BUCKETS, "measures": MEASURES}
    lists = [
        textwrap.fill(f"{title}: {' '.join(values)}", 79, subsequent_indent="  ") for title, values in names.items()
    ]
    return "\n".join(
        [
            "NAMES are separated by commas, or the option is repeated. The app's own declared",
            "dimensions can be asked for like the others. JSON and CSV have all measures.\n",
            *lists,
        ],
    )
