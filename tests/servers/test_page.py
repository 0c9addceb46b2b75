"""docs/deploying.md: its Python blocks run, and it names every server that is tested."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.servers import ASGI_SERVERS, WSGI_SERVERS
from tests.support.wsgi import ask
from usagekit.wsgi import UsageMiddleware

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "deploying.md").read_text("utf-8")


def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Falcon tells its templates, and Django's settings are those that exist."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(block, names)  # noqa: S102  what the page says

    class Item:
        def on_get(self, req: Any, resp: Any, item_id: str) -> None:
            resp.text = item_id

    with names["recorder"] as recorder:
        names["falcon_app"].add_route("/items/{item_id}", Item())
        answer = ask(UsageMiddleware(names["falcon_app"], recorder=recorder), "/items/17")
        assert recorder.flush()

        assert answer.body == b"17"
        assert recorder.status()["durable"] == 1
    assert names["USAGEKIT"].keys() == {"RECORDER", "IDENTIFY"}


def test_the_page_names_the_servers_that_are_tested() -> None:
    """Each once, in the table."""
    rows = re.findall(r"^\| (\w+) \|", PAGE, re.MULTILINE)

    assert sorted(rows[1:]) == sorted({server.partition(" ")[0] for server in (*ASGI_SERVERS, *WSGI_SERVERS)})
