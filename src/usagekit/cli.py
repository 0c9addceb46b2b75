"""The `usagekit` command: reports, the state of a ledger, and importing what dead processes left behind.

Everything but argparse is imported when it is needed, so that `--help` is there at once.
"""

from __future__ import annotations

import argparse
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from typing import Any, NoReturn, Self

    from usagekit.query import UsageReport

__all__ = ["main"]

DONE, LEFT, FAILED, NO_READER = 0, 1, 2, 141  # 141 is what a shell says of a program that SIGPIPE ended

PERIOD = "7d"
EVERYTHING = "all"
TIMEOUT_SECONDS = 300.0
BUSY_WAIT = 0.01
PROGRESS_AFTER = 0.5  # seconds; shorter work needs no progress bar

TABLE_MEASURES = (
    "events",
    "users",
    "failed",
    "total_tokens",
    "cost_usd",
    "latency_ms_p95",
    "last_seen",
    "success_rate",
    "latency_ms_p50",
)
"""What a table shows when no measures were asked for: of these, from the left, as many as the terminal has room for.

What is 0 or unknown for everything that matched is left out, but for `events` and `failed`.
"""

_ALWAYS_SHOWN = 4  # measures: keys are shortened rather than leave fewer
_KEY_WIDTH = 8  # but never to less than this
_GAP = "  "


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default the process's, and return the exit code.

    0 = done, 1 = `drain` left something, 2 = an error, said in one line on stderr. Leaves by `SystemExit` where
    argparse does: after `--help` and `--version`, and for options it does not understand.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # an id may hold what the terminal's encoding has not
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output, `head` for one, has had enough. What is still buffered must go somewhere at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except KeyboardInterrupt:
        return 130


def _run(argv: Sequence[str]) -> int:
    from usagekit.errors import UsagekitError

    arguments = _parser().parse_args(_descending_order_joined(argv))
    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except BrokenPipeError:
        raise
    except (UsagekitError, OSError, ImportError) as error:
        print(f"usagekit {arguments.name}: {error}", file=sys.stderr)
        return FAILED


# Options.


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


def _parser() -> _Parser:
    from usagekit import __version__

    parser = _Parser(prog="usagekit", description="Who uses your app, how much, and what it costs.")
    parser.add_argument("--version", action="version", version=f"usagekit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name", title="commands")
    for add in (_add_report, _add_status, _add_drain):
        add(commands)
    return parser


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="who used what, how much, and at which cost",
        description="Who used what, how much, and at which cost: by default each user of the last seven days.",
        explain=_algebra,
    )
    option = parser.add_argument
    _add_ledger(parser, "the ledger, the file that the app's SQLiteBackend has")
    option("--by", action="append", metavar="NAMES", help="dimensions and time buckets; '' for one row [user]")
    option("--measures", action="append", metavar="NAMES", help="what to count; 'all' [what the terminal has room for]")
    option("--period", help=f"24h, 7d, ...: exactly so long, until now; 'all' for everything [{PERIOD}]")
    option("--days", type=int, metavar="N", help="the last N calendar days of the zone, today included")
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
    option("--order", metavar="NAME", help="a measure or one of --by, with - in front for descending")
    option("--limit", type=int, metavar="N", help="at most so many rows; totals do not know it")
    option("--origin", default="direct", help="direct: what this app recorded; backfill: brought in [direct]")
    _add_format(parser, "table", "json", "csv")
    parser.set_defaults(command=_report)


def _add_status(commands: Any) -> None:
    about = "what a ledger holds, and what still waits"
    parser = commands.add_parser("status", help=about, description=f"Tell {about}.")
    _add_ledger(parser, "the ledger")
    _add_format(parser, "text", "json")
    parser.set_defaults(command=_status)


def _add_drain(commands: Any) -> None:
    parser = commands.add_parser(
        "drain",
        help="import what processes left in their journals",
        description="Import all that waits in journals, also of processes that died, and remove what they left.",
    )
    _add_ledger(parser, "the ledger")
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help=f"give up, with exit code 1, when something is left after so long [{TIMEOUT_SECONDS:g}]",
    )
    parser.set_defaults(command=_drain)


def _add_ledger(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--db", metavar="PATH", help=f"{what} [USAGEKIT_BACKEND, else USAGEKIT_PATH]")


def _add_format(parser: argparse.ArgumentParser, *formats: str) -> None:
    parser.add_argument("--format", choices=formats, default=formats[0], help=f"how to show it [{formats[0]}]")


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
            "dimensions can be asked for like the others. JSON and CSV have all measures.",
            "",
            *lists,
        ],
    )


def _descending_order_joined(argv: Sequence[str]) -> list[str]:
    """Make `--order -cost_usd` one word: argparse would take the second for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--order" and word.startswith("-") and not word.startswith("--"):
            joined[-1] = f"--order={word}"
        else:
            joined.append(word)
    return joined


def _names(given: list[str] | None) -> list[str] | None:
    return None if given is None else [name.strip() for text in given for name in text.split(",") if name.strip()]


def _filters(given: list[str]) -> dict[str, list[str]]:
    from usagekit.errors import QueryError

    filters: dict[str, list[str]] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise QueryError(f"bad --where {text!r}; use --where org=org_xyz, and again for another value")
        filters.setdefault(name, []).append(value)
    return filters


# Which ledger.


def _backends() -> list[Any]:
    from usagekit.backends import backend_from_url

    urls = [url.strip() for url in os.environ.get("USAGEKIT_BACKEND", "").split(",")]
    return [backend_from_url(url) for url in urls if url]


def _ledger(db: str | None) -> str:
    """Give the path of the ledger that was meant."""
    from usagekit.errors import ConfigurationError

    if db is None:
        ledgers = [backend.ledger_path for backend in _backends() if hasattr(backend, "ledger_path")]
        db = ledgers[0] if ledgers else os.environ.get("USAGEKIT_PATH")
    if not db:
        raise ConfigurationError(
            "no ledger was named; give --db PATH, or set USAGEKIT_BACKEND=sqlite:///usage.db or USAGEKIT_PATH"
        )
    return os.path.abspath(db)  # noqa: PTH100  as the store names it: links are not resolved


def _source(db: str | None) -> Any:
    """Give what answers: the first backend of the environment that can, or the ledger that was meant."""
    from usagekit.backends.sqlite import SQLiteBackend
    from usagekit.errors import ConfigurationError

    backends = _backends() if db is None else []
    readers = [backend for backend in backends if hasattr(backend, "read")]
    for reader in readers:
        if not getattr(reader, "in_process", False):
            return reader
    if backends:
        raise ConfigurationError(
            f"USAGEKIT_BACKEND={os.environ['USAGEKIT_BACKEND']!r} names nothing that another process can ask; "
            "give --db PATH, or add sqlite:///usage.db to it"
        )
    return SQLiteBackend(_ledger(db))


def _explained(path: str) -> AbstractContextManager[None]:
    """Turn what SQLite and the file system say about the ledger at `path` into an error that helps."""
    import sqlite3
    from contextlib import contextmanager

    from usagekit.errors import StorageError

    @contextmanager
    def explaining() -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except (sqlite3.Error, PermissionError) as error:
            raise StorageError(
                f"cannot use the ledger {path!r}: {error}; give the path that the app's recorder has, "
                "and run this as the user the app runs as"
            ) from error

    return explaining()


# report


def _report(arguments: argparse.Namespace) -> int:
    from usagekit.query import usage

    source = _source(arguments.db)
    measures = _names(arguments.measures)
    by = ["user"] if arguments.by is None else _names(arguments.by) or []
    choose = measures is None and arguments.format == "table"
    if choose:
        measures = [name for name in TABLE_MEASURES if (name, "user" in by) != ("users", True)]
    ranges = (arguments.period, arguments.days, arguments.start, arguments.end)
    period = PERIOD if ranges == (None, None, None, None) else arguments.period
    with _explained(getattr(source, "ledger_path", "")):
        report = usage(
            source,
            by=by,
            measures=None if measures == [EVERYTHING] else measures,
            period=None if period == EVERYTHING else period,
            days=arguments.days,
            start=arguments.start,
            end=arguments.end,
            tz=arguments.tz,
            where=_filters(arguments.where) or None,
            order=arguments.order,
            limit=arguments.limit,
            origin=arguments.origin,
        )
    if arguments.format == "json":
        print(report.to_json())
    elif arguments.format == "csv":
        sys.stdout.write(report.to_csv())
    else:
        _show_table(report, choose=choose)
        _show_waiting(source)
    return DONE


def _show_table(report: UsageReport, *, choose: bool) -> None:
    """Print the table; `choose`: of its measures only those that say something, and have room."""
    query = report.query
    total = report.totals if query.by else {}
    keys = [_Column(name, [_shown_key(name, row[name]) for row in report.rows], "total") for name in query.by]
    for key in keys[1:]:
        key.total = ""
    always = {"events", "failed"} if choose else set(query.measures)
    names = [name for name in query.measures if name in always or report.totals[name]]
    measures = [_measure_column(name, report.rows, total) for name in names]
    if not report.totals.get("events", 1):
        print("No events matched.")
    elif measures or keys:
        blocks = _blocks(keys, measures, _terminal_width())
        for block in blocks[:1] if choose else blocks:
            _print_block(block)
    print(_about(report))


def _about(report: UsageReport) -> str:
    """Say in one line what the table is about."""
    query = report.query
    start = "the beginning" if query.start is None else _local(query.start, report)
    end = "now" if query.end is None else _local(query.end, report)
    period = "all time" if query.start is query.end else f"{start} to {end}"
    parts = [f"{period} ({query.tz})", f"source {report.source}", "exact" if report.exact else "sampled, not exact"]
    if query.origin != "direct":
        parts.insert(1, f"origin {query.origin}")
    if report.complete_from is not None:
        parts.append(f"complete from {_local(report.complete_from, report)}")
    if query.limit is not None and len(report.rows) == query.limit:
        parts.append(f"first {query.limit:,} rows")
    return ", ".join(parts)


def _local(time: datetime, report: UsageReport) -> str:
    return f"{time.astimezone(report.query.zone):%Y-%m-%d %H:%M:%S}"


def _show_waiting(source: Any) -> None:
    path = getattr(source, "ledger_path", None)
    if path is not None:
        files, size = _waiting(path)
        if size:
            print(
                f"not in it yet: {_counted(size, 'byte')} in {_counted(files, 'journal')}; usagekit drain imports them"
            )


# Tables.


class _Column:
    """One column of a table: its name, the text of its cells, and that of the totals line."""

    def __init__(self, name: str, cells: list[str], total: str, *, right: bool = False) -> None:
        self.name = name
        self.cells = cells
        self.total = total
        self.right = right

    @property
    def heading(self) -> tuple[str, str]:
        """Two lines: a long name would make a column of short numbers wide."""
        if len(self.name) < len("last_seen_") or "_" not in self.name:
            return "", self.name
        first, _, second = self.name.rpartition("_")
        return first, second

    @property
    def width(self) -> int:
        return max(_width(text) for text in (*self.heading, *self.cells, self.total))

    def shorten(self, width: int) -> None:
        """Cut what is longer than `width`."""
        self.cells = [_cut(text, width) for text in self.cells]

    def padded(self, text: str) -> str:
        space = " " * (self.width - _width(text))
        return space + text if self.right else text + space


def _width(text: str) -> int:
    """Give how many places `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(2 if east_asian_width(one) in "WF" else not combining(one) for one in text)


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[:-1]
    return text + "…"


def _terminal_width() -> int | None:
    """Give the width to keep to; None where the output goes to a file or another program."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    if not sys.stdout.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def _blocks(keys: list[_Column], measures: list[_Column], width: int | None) -> list[list[_Column]]:
    """Spread columns over tables that are no wider than `width`, each with the keys in front."""
    if width is None:
        return [[*keys, *measures]]
    _shorten_keys(keys, width - sum(len(_GAP) + column.width for column in measures[:_ALWAYS_SHOWN]))
    room = width - sum(key.width + len(_GAP) for key in keys) + len(_GAP)
    blocks: list[list[_Column]] = []
    left = -1
    for column in measures:
        left -= column.width + len(_GAP)
        if left < 0:
            blocks.append([*keys])
            left = room - column.width - len(_GAP)
        blocks[-1].append(column)
    return blocks or [keys]


def _shorten_keys(keys: list[_Column], room: int) -> None:
    room -= len(_GAP) * (len(keys) - 1)
    while sum(key.width for key in keys) > room:
        widest = max(keys, key=lambda key: key.width)
        if widest.width <= _KEY_WIDTH:
            return
        widest.shorten(widest.width - 1)


def _print_block(columns: list[_Column]) -> None:
    if sys.stdout.isatty():
        try:
            _print_rich(columns)
        except ImportError:
            pass
        else:
            return
    rule = _GAP.join("-" * column.width for column in columns)
    heading = [_GAP.join(column.padded(column.heading[line]) for column in columns).rstrip() for line in (0, 1)]
    rows = [_GAP.join(column.padded(column.cells[n]) for column in columns) for n in range(len(columns[0].cells))]
    lines = [*filter(None, heading), rule, *rows]
    total = _GAP.join(column.padded(column.total) for column in columns)
    if total.strip():
        lines += [rule, total]
    print("\n".join(line.rstrip() for line in lines) + "\n")


def _print_rich(columns: list[_Column]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    totals = any(column.total for column in columns)
    table = Table(box=SIMPLE, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, show_footer=totals)
    for column in columns:
        table.add_column(
            Text("\n".join(column.heading).strip("\n"), style="bold"),
            Text(column.total, style="bold"),
            justify="right" if column.right else "left",
            vertical="bottom",
            width=column.width,
            no_wrap=True,
        )
    for n in range(len(columns[0].cells)):
        table.add_row(*(Text(column.cells[n]) for column in columns))
    # Widths were settled before: a narrow terminal may wrap a line, but must not squeeze a number.
    console = Console(file=sys.stdout, width=sum(column.width + len(_GAP) for column in columns), highlight=False)
    console.print(table)
    console.print()


# What stands in a cell.


def _shown_key(name: str, value: object) -> str:
    if value == "" and name in {"user", "org"}:
        return "(unattributed)"
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value in {None, ""} else str(value)


def _measure_column(name: str, rows: list[dict[str, Any]], totals: dict[str, Any]) -> _Column:
    known = [value for value in (*(row[name] for row in rows), totals.get(name)) if value is not None]
    shown = _format_of(name, known)
    cells = ["-" if row[name] is None else shown(row[name]) for row in rows]
    total = "" if not totals else "-" if totals[name] is None else shown(totals[name])
    return _Column(name, cells, total, right=name != "last_seen")


def _format_of(name: str, values: list[Any]) -> Callable[[Any], str]:
    """Give how values of one measure are shown, all of a column alike."""
    if name == "last_seen":
        return lambda value: f"{value[:10]} {value[11:19]}"
    if name == "success_rate":
        return lambda value: f"{value:.1%}"
    if name == "cost_usd":
        return _cents if all(value >= 1 or value == 0 for value in values) else _small_money
    if name == "quantity":
        return lambda value: f"{value:,.6f}".rstrip("0").rstrip(".")
    if "_ms" in name:
        return lambda value: f"{value:,.1f}"
    return lambda value: f"{value:,}"


def _cents(value: Any) -> str:
    return f"${value:,.2f}"


def _small_money(value: Any) -> str:
    text = f"${value:,.4f}"
    return "<$0.0001" if value > 0 and text == "$0.0000" else text


# status


def _status(arguments: argparse.Namespace) -> int:
    from usagekit._store.engine import status_of

    path = _ledger(arguments.db)
    with _explained(path):
        _check_ledger(path)
        status = status_of(path, ())
        files, size = _waiting(path)
    if arguments.format == "json":
        import json

        print(json.dumps({"ledger": path} | status | {"waiting": {"journals": files, "bytes": size}}))
        return DONE
    drain = "; usagekit drain imports them" if size else ""
    lines = {
        "ledger": path,
        "durable": _counted(status["durable"], "event"),
        "waiting": f"{_counted(size, 'byte')} in {_counted(files, 'journal')}{drain}",
        "repeated": f"{_counted(status['repeated'], 'event')} with an event_id that was counted before",
        "corrupt": f"{_counted(status['corrupt'], 'record')} that could not be read",
        "dead letters": f"{_counted(status['dead_letters'], 'event')} that a sink refused for good",
    }
    for name, text in lines.items():
        print(f"{name:<12}  {text}")
    sinks = status["sinks"]
    if sinks:
        names = ("delivered", "lag", "dead_letters")
        print()
        _print_block(
            [
                _Column("sink", list(sinks), ""),
                *(_Column(name, [f"{sink[name]:,}" for sink in sinks.values()], "", right=True) for name in names),
            ],
        )
    return DONE


def _check_ledger(path: str) -> None:
    """Raise `StorageError` where no ledger lies at `path`."""
    from usagekit.backends.sqlite import SQLiteBackend

    _ = SQLiteBackend(path).dimensions


def _waiting(path: str) -> tuple[int, int]:
    """Give how many journals of the ledger at `path` hold something to import, and how many bytes."""
    from usagekit._store.engine import journals_of
    from usagekit._store.journal import files
    from usagekit._store.schema import connect

    sizes = {name: size for name, _, size in files(journals_of(path))}
    connection = connect(path, read_only=True)
    try:
        imported = dict(connection.execute("SELECT name, imported FROM journals"))
    finally:
        connection.close()
    left = [size - imported.get(name, 0) for name, size in sizes.items() if size > imported.get(name, 0)]
    return len(left), sum(left)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


# drain


def _drain(arguments: argparse.Namespace) -> int:
    from usagekit._store.engine import journals_of, status_of
    from usagekit._store.journal import files
    from usagekit._store.schema import prepare

    path = _ledger(arguments.db)
    with _explained(path):
        if not any(files(journals_of(path))):
            _check_ledger(path)  # where there is neither ledger nor journal, none is to be made
        prepare(path)
        before = status_of(path, ())
        count, left = _import_all(path, arguments.timeout)
        after = status_of(path, ())
    gained = {name: after[name] - before[name] for name in ("durable", "repeated", "corrupt")}
    print(f"imported {_counted(gained['durable'], 'event')} into {path}")
    if gained["repeated"]:
        print(f"{_counted(gained['repeated'], 'event')} had an event_id that was counted before")
    if gained["corrupt"]:
        print(f"{_counted(gained['corrupt'], 'record')} could not be read: torn by a death or a power cut, or damaged")
    if not left:
        return DONE
    print(
        f"usagekit drain: {_counted(left, 'byte')} in {_counted(count, 'journal')} are left after "
        f"{arguments.timeout:g} s; another process may be writing: run it again, or give a larger --timeout",
        file=sys.stderr,
    )
    return LEFT


def _import_all(path: str, timeout: float) -> tuple[int, int]:
    """Import until nothing waits or `timeout` seconds are over; returns what is left: journals and bytes."""
    import sqlite3
    from contextlib import closing
    from time import monotonic, sleep

    from usagekit._store.engine import journals_of
    from usagekit._store.ledger import Importer
    from usagekit._store.schema import is_busy

    directory = journals_of(path)
    if not os.path.isdir(directory):  # noqa: PTH112  paths are text here, as the store has them
        return 0, 0
    deadline = monotonic() + timeout
    with closing(Importer(path, directory)) as importer, _Progress(_waiting(path)[1]) as progress:
        while True:
            try:
                taken = importer.step()
                if not taken:
                    importer.adopt()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                taken = 0  # another process is importing at this moment
            count, left = _waiting(path)
            progress.show(left)
            if not left or monotonic() > deadline:
                importer.adopt()
                return count, left
            if not taken:
                sleep(BUSY_WAIT)


class _Progress:
    """A progress bar on stderr, when that is a terminal and the work takes a while; a context manager.

    Args:
        total: bytes to import, as far as it was known at the start.
    """

    def __init__(self, total: int) -> None:
        from time import monotonic

        self._total = total
        self._begin = monotonic() + PROGRESS_AFTER
        self._shown: Callable[[int], None] | None = None
        self._end: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def show(self, left: int) -> None:
        """Show how much is `left`."""
        from time import monotonic

        if monotonic() < self._begin or not sys.stderr.isatty():
            return
        if self._shown is None:
            try:
                self._begin_rich()
            except ImportError:
                self._shown, self._end = self._plain, lambda: print(file=sys.stderr)
        self._total = max(self._total, left)
        if self._shown is not None:
            self._shown(self._total - left)

    def _plain(self, done: int) -> None:
        print(f"\rimporting: {done / max(1, self._total):.0%}", end="", file=sys.stderr, flush=True)

    def _begin_rich(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        progress = Progress(
            TextColumn("importing"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        task = progress.add_task("importing", total=self._total)
        progress.start()
        self._shown = lambda done: progress.update(task, completed=done, total=self._total)
        self._end = progress.stop
