"""A real Prometheus server on loopback, which scrapes one target, and its answers in PromQL."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

from tests.support.servers import free_port
from tests.support.stores import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXECUTABLE = shutil.which("prometheus")
MISSING = "no Prometheus server here; on Debian or Ubuntu: apt-get install prometheus"

_CONFIGURATION = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs: [{{job_name: app, static_configs: [{{targets: ["127.0.0.1:{target}"]}}]}}]
"""


class Prometheus:
    """A server that runs, and its HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._opener = build_opener(ProxyHandler({}))

    def answers(self) -> bool:
        """Tell whether it is ready to be asked."""
        try:
            with self._opener.open(f"{self._url}/-/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def ask(self, promql: str, *by: str) -> dict[tuple[str, ...], float]:
        """Give the values of an instant query by labels; a label that is absent is empty."""
        with self._opener.open(f"{self._url}/api/v1/query?query={quote(promql)}", timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
        assert answer["status"] == "success", answer
        return {
            tuple(one["metric"].get(name, "") for name in by): float(one["value"][1])
            for one in answer["data"]["result"]
        }


@contextmanager
def scraping(target: int, directory: Path) -> Iterator[Prometheus]:
    """Run a Prometheus server during a block that scrapes a port of this machine."""
    assert EXECUTABLE is not None, MISSING
    configuration = directory / "prometheus.yml"
    configuration.write_text(_CONFIGURATION.format(target=target))
    port = free_port()
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                EXECUTABLE,
                f"--config.file={configuration}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            server = Prometheus(port)
            assert eventually(server.answers, 30), (directory / "prometheus.log").read_text()
            yield server
        finally:
            process.terminate()
            process.wait(30)
