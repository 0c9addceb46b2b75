"""The ingest Worker in workerd, Cloudflare's own runtime, and what came out of its Analytics Engine binding."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WORKER = Path(__file__).parents[2] / "integrations" / "cloudflare-worker"
SUPPORT = Path(__file__).parent / "worker"
BINARIES = tuple(WORKER.glob("node_modules/@cloudflare/workerd-*/bin/workerd"))  # npm installs this machine's alone
KEY = "0123456789abcdef0123456789abcdef"

_CONFIG = """\
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "ingest", worker = .ingest),
    (name = "disk", disk = (path = "{disk}", writable = true)),
{services}
  ],
  sockets = [
    (name = "ingest", address = "127.0.0.1:0", http = (), service = "ingest"),
{sockets}
  ],
  extensions = [(modules = [(name = "test:limited", internal = true, esModule = embed "limited.js")])],
);
const ingest :Workerd.Worker = (
  modules = [{modules}],
  compatibilityDate = "{date}",
  durableObjectNamespaces = [{classes}],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [
{bindings}
  ],
);
const store :Workerd.Worker = (
  modules = [(name = "store.js", esModule = embed "store.js")],
  compatibilityDate = "{date}",
);
"""


class Point(NamedTuple):
    """A data point as the binding sent it on: all twenty blobs and doubles, what was not given `""` and 0."""

    dataset: str
    index1: str
    blobs: tuple[str, ...]
    doubles: tuple[float, ...]


def wrangler_config(environment: str = "") -> dict[str, Any]:
    """Give what wrangler deploys, for the default environment or a named one."""
    text = re.sub(r"^\s*//.*$", "", (WORKER / "wrangler.jsonc").read_text(encoding="utf-8"), flags=re.MULTILINE)
    config: dict[str, Any] = json.loads(text)
    named = config.pop("env")
    return config | named[environment] if environment else config


class Workerd:
    """The Worker as wrangler.jsonc describes it, in a process of its own. A test starts, kills and starts it again.

    Args:
        directory: of its own; what Durable Objects store lies there and outlives the process.
        environment: of wrangler.jsonc; `""` = the default one.
        secrets: what `wrangler secret put` would have set; None = a good key.
        limited: whether the binding throws, as production's does and workerd's does not; see worker/limited.js.
    """

    def __init__(
        self,
        directory: Path,
        environment: str = "",
        *,
        secrets: Mapping[str, str] | None = None,
        limited: bool = False,
    ) -> None:
        self._directory = directory
        self._config = wrangler_config(environment)
        self._secrets = {"INGEST_KEY": KEY} if secrets is None else secrets
        self._limited = limited
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}
        self.datasets = tuple(entry["dataset"] for entry in self._config["analytics_engine_datasets"])

    @property
    def url(self) -> str:
        """Where it takes batches."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """Where it takes batches; another one after a restart, as anybody may have taken the old one."""
        return self._ports["ingest"]

    @property
    def log(self) -> str:
        """What it printed so far."""
        return (self._directory / "log").read_text(encoding="utf-8")

    @property
    def cpu_seconds(self) -> float:
        """Processor time it used since it was started; on Linux alone."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def start(self) -> None:
        """Start it, and wait until it listens."""
        assert self._process is None, "it runs already"
        self._write()
        told, tell = os.pipe()
        command = [str(BINARIES[0]), "serve", "--experimental", "--verbose", f"--control-fd={tell}", "config.capnp"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._directory, stdout=log, stderr=log, pass_fds=[tell], start_new_session=True
            )
        os.close(tell)
        with open(told, "rb") as lines:  # noqa: PTH123  a descriptor
            for _ in range(1 + len(self.datasets)):
                line = lines.readline()
                assert line, f"workerd ended before it listened: {self.log}"
                said = json.loads(line)
                self._ports[said["socket"]] = said["port"]

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def post(self, body: bytes, headers: Mapping[str, str], *, path: str = "/v1/batches") -> tuple[int, Any]:
        """Post a body; gives status and answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", path, body, dict(headers))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def take(self) -> list[Point]:
        """Take away the points that came out of the bindings since the last time."""
        return [_point(json.loads(line)) for dataset in self.datasets for line in self._lines(dataset)]

    def _lines(self, dataset: str) -> Iterator[bytes]:
        while lines := self._get(dataset, "/take").splitlines():
            yield from lines

    def _get(self, socket: str, path: str) -> bytes:
        connection = HTTPConnection("127.0.0.1", self._ports[socket], timeout=30)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def _write(self) -> None:
        disk = self._directory / "disk"
        disk.mkdir(parents=True, exist_ok=True)
        sources = sorted((WORKER / "src").glob("*.js"), key=lambda path: path.name != Path(self._config["main"]).name)
        for source in (*sources, *SUPPORT.glob("*.js")):
            shutil.copyfile(source, self._directory / source.name)
        services = [f'    (name = "{name}", worker = .store),' for name in self.datasets]
        sockets = [
            f'    (name = "{name}", address = "127.0.0.1:0", http = (), service = "{name}"),' for name in self.datasets
        ]
        classes = [name for step in self._config["migrations"] for name in step["new_sqlite_classes"]]
        text = _CONFIG.format(
            disk=disk,
            date=self._config["compatibility_date"],
            services="\n".join(services),
            sockets="\n".join(sockets),
            modules=", ".join(f'(name = "{path.name}", esModule = embed "{path.name}")' for path in sources),
            classes=", ".join(f'(className = "{name}", uniqueKey = "{name}", enableSql = true)' for name in classes),
            bindings="\n".join(f"    ({binding})," for binding in self._bindings()),
        )
        (self._directory / "config.capnp").write_text(text, encoding="utf-8")

    def _bindings(self) -> Iterator[str]:
        for name, value in self._config["vars"].items():
            yield f"name = {json.dumps(name)}, json = {json.dumps(json.dumps(value))}"
        for name, value in self._secrets.items():
            yield f"name = {json.dumps(name)}, text = {json.dumps(value)}"
        for entry in self._config["analytics_engine_datasets"]:
            name, engine = entry["binding"], f'analyticsEngine = "{entry["dataset"]}"'
            inner = f'wrapped = (moduleName = "test:limited", innerBindings = [(name = "dataset", {engine})])'
            yield f'name = "{name}", {inner if self._limited else engine}'
        for entry in self._config["durable_objects"]["bindings"]:
            yield f'name = "{entry["name"]}", durableObjectNamespace = "{entry["class_name"]}"'


@contextmanager
def serving_worker(
    directory: Path, environment: str = "", *, secrets: Mapping[str, str] | None = None, limited: bool = False
) -> Iterator[Workerd]:
    """Run the Worker during a block; skips the test where workerd is not installed."""
    if not BINARIES:
        pytest.skip("workerd is not installed; `make test` installs it by npm, which needs a package registry")
    worker = Workerd(directory, environment, secrets=secrets, limited=limited)
    worker.start()
    try:
        yield worker
    finally:
        worker.kill()


def _point(event: dict[str, Any]) -> Point:
    # Cap'n Proto's JSON: bytes are lists of numbers, and what is unset is not there.
    def text(name: str) -> str:
        return bytes(event.get(name, ())).decode()

    return Point(
        text("dataset"),
        text("index1"),
        tuple(text(f"blob{n}") for n in range(1, 21)),
        tuple(float(event[f"double{n}"]) for n in range(1, 21)),
    )
