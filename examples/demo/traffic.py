"""Real HTTP traffic for the demo: a handful of users in three orgs, some of them clumsy."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException

SECONDS = 30.0  # for any one answer; a real model takes its time

_Step = tuple[str, str, object]

BROWSE: list[_Step] = [("GET", "/items", None), ("GET", "/items/1", None), ("GET", "/items/2", None)]
MISSED: _Step = ("GET", "/items/99", None)
MISTYPED: _Step = ("GET", "/items/anvil", None)
LOST: _Step = ("GET", "/wp-login.php", None)
BROKEN: _Step = ("GET", "/reports/broken", None)
LISTEN: _Step = ("GET", "/feed", None)
SUMMARISE: _Step = ("POST", "/items/2/summary", None)
ORDER: _Step = ("POST", "/orders", {"item": 1, "amount": 3})
MISORDER: _Step = ("POST", "/orders", {"item": 1})
ASK: _Step = ("POST", "/chat", {"text": "How do I catch a roadrunner?"})
ASK_STREAMED: _Step = ("POST", "/chat", {"text": "How do I catch a roadrunner?", "stream": True})
ASK_CLAUDE: _Step = ("POST", "/chat", {"text": "Is an anvil safe to ship?", "provider": "anthropic"})
ASK_CLAUDE_STREAMED: _Step = (
    "POST",
    "/chat",
    {"text": "Is an anvil safe to ship?", "provider": "anthropic", "stream": True},
)
ACME_EXPORT: _Step = ("POST", "/orgs/acme/export", None)
GLOBEX_EXPORT: _Step = ("POST", "/orgs/globex/export", None)

# The user ("" says nothing about itself), and what it does.
VISITS: list[tuple[str, list[_Step]]] = [
    ("ann", [*BROWSE * 12, ORDER, LISTEN, ACME_EXPORT, *[SUMMARISE] * 8, ASK, ASK, ASK_STREAMED, ASK_CLAUDE]),
    ("bob", [*BROWSE * 6, MISSED, MISSED, ORDER, ASK_STREAMED]),
    (
        "carla",
        [*BROWSE * 9, GLOBEX_EXPORT, GLOBEX_EXPORT, LISTEN, *[SUMMARISE] * 3, ASK, ASK_CLAUDE, ASK_CLAUDE_STREAMED],
    ),
    ("dai", [*BROWSE * 2, MISTYPED, BROKEN, MISORDER]),
    ("erik", [*BROWSE * 4, BROKEN, ORDER, SUMMARISE]),
    ("", [*BROWSE, LOST, LOST]),
]
QUITTER = "erik"  # closes its connection in the middle of the feed

RECORDING = (SUMMARISE, ASK, ASK_STREAMED, ASK_CLAUDE, ASK_CLAUDE_STREAMED, ACME_EXPORT, GLOBEX_EXPORT)
EVENTS = 1 + sum(1 + (step in RECORDING) for _, steps in VISITS for step in steps)
"""How many events all this makes: one per request, and one more where the app records one itself."""


def send_all(port: int) -> None:
    """Send everything, the users at the same time, to the app on `port` of this machine."""
    with ThreadPoolExecutor(len(VISITS) + 1) as pool:
        visits = [pool.submit(_visit, port, user, steps) for user, steps in VISITS]
        visits.append(pool.submit(_walk_away, port))
        for visit in visits:
            visit.result()


def _visit(port: int, user: str, steps: list[_Step]) -> None:
    for method, path, body in random.Random(user).sample(steps, len(steps)):
        # One connection each: after an error of the app, the server may close it without a word.
        with closing(HTTPConnection("127.0.0.1", port, timeout=SECONDS)) as connection:
            headers = {"content-type": "application/json"} | _identity(user)
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            with suppress(HTTPException, ConnectionError):  # a real provider may fail, also within a stream
                connection.getresponse().read()


def _walk_away(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("GET", "/feed", headers=_identity(QUITTER))
    answer = connection.getresponse()
    answer.read(20)
    answer.close()
    connection.close()


def _identity(user: str) -> dict[str, str]:
    return {"x-user-id": user} if user else {}
