"""docs/analytics-engine.md: its Python runs, and its panel's statement is answered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usagekit.backends.analytics_engine import Layout

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "analytics-engine.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it asserts holds; the table of the default layout is that of the source; the panel has a row."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}

    for number, text in enumerate(_blocks("python")):
        exec(compile(text, f"block {number}", "exec"), namespace)  # noqa: S102  what the page says
    (layout,) = _blocks("json")
    (panel,) = _blocks("sql")
    rows = namespace["recorder"].sql(panel)["data"]

    assert [(row["model"], row["tokens"]) for row in rows] == [("gpt-5-mini", 1500)]
    assert Layout.from_json(layout).columns == {
        "index1": "user",
        "blob1": "user",
        "blob2": "skill",
        "double1": "input_tokens",
    }
    namespace["recorder"].close()


def test_the_tables_of_the_page_are_those_of_the_source() -> None:
    """Every column of the default layout, and every field there is."""
    from usagekit.backends.analytics_engine.layout import NUMBERS, TEXTS

    text = PAGE.read_text("utf-8")
    told = dict(re.findall(r"`((?:index|blob|double)\d+)` \| (\w+)", text))
    assert "`blob11` to 20 | your dimensions" in text
    told |= {"double15": "latency_known", "double16": "first_token_known"}

    assert told == Layout.default().columns
    for option, fields in (("`index`, `blobs`", TEXTS), ("`doubles`", NUMBERS)):
        line = next(line for line in text.splitlines() if line.startswith(f"| {option}"))
        assert set(re.findall(r"`(\w+)`", line)) - {"index", "blobs", "doubles"} == set(fields)
