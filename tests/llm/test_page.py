"""docs/model-calls.md: its Python blocks run, in order, and record what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usagekit import set_default_recorder

if TYPE_CHECKING:
    import pytest

    from tests.llm.provider import Provider

PAGE = Path(__file__).resolve().parents[2] / "docs" / "model-calls.md"


def test_the_page_does_what_it_says(provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a provider on loopback: whom each call counts for, and what the caller gets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.url}/v1")
    namespace: dict[str, Any] = {"__name__": "page"}

    for number, text in enumerate(
        re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    ):
        exec(compile(text, f"block {number}", "exec"), namespace)  # noqa: S102  what the page says

    recorder = namespace["recorder"]
    report = _asked(recorder)
    assert namespace["text"] == "One two three four"
    assert report == {
        ("llm", "ann", "acme", "", "gpt-5-mini", "priced"): 150,
        ("chat", "bob", "", "support", "gpt-5-mini", "priced"): 150,
        ("llm", "ann", "", "", "acme-1", "priced"): 46,  # late
        ("llm", "ann", "", "", "gpt-5-mini", "priced"): 150,
    }
    set_default_recorder(None)
    namespace["client"].close()
    namespace["priced"].close()
    recorder.close()


def _asked(recorder: Any) -> dict[tuple[str, ...], int]:
    from usagekit import usage

    by = ["event", "user", "org", "feature", "model", "cost_source"]
    report = usage(recorder, by=by, measures=["total_tokens"])
    return {tuple(row[name] for name in by): row["total_tokens"] for row in report.rows}
