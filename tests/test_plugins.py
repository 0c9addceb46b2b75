"""Backends that other distributions bring: listed, explained when they are broken, and held to the public suites."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from usagekit import cli

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "integrations" / "example-backend"


def said_by(command: list[str | Path], **environment: str) -> str:
    """Run a command to its good end, and give what it printed."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def distribution(
    directory: Path, name: str, entry: str, modules: Mapping[str, str], *, group: str = "usagekit.backends"
) -> None:
    """Lay out an installed distribution with one entry point."""
    information = directory / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
    for module, text in modules.items():
        (directory / f"{module}.py").write_text(text)


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """Give what `usagekit backends` tells, by name."""
    assert cli.main(["backends", "--format", "json"]) == 0
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)}


def test_our_own_backends_come_by_the_public_door(capsys: pytest.CaptureFixture[str]) -> None:
    """Each says its distribution and what it can do."""
    told = listed(capsys)

    own = {"memory": ["write", "read", "url"], "otel": ["write", "url"], "sqlite": ["write", "read", "url"]}
    assert own.items() <= {name: one["can"] for name, one in told.items()}.items()
    assert {one["distribution"].split()[0] for one in told.values()} == {"usagekit"}
    assert {one["error"] for one in told.values()} == {None}


def test_a_backend_that_cannot_be_loaded_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing module, a missing class and a module that raises are told, and the others are listed all the same."""
    distribution(tmp_path / "a", "acme-usage", "acme = acme_usage:Backend", {})
    distribution(tmp_path / "b", "half-usage", "half = half_usage:Backend", {"half_usage": "class Other: ...\n"})
    distribution(tmp_path / "c", "bad-usage", "bad = bad_usage:Backend", {"bad_usage": "1 / 0\n"})
    for name in "abc":
        monkeypatch.syspath_prepend(tmp_path / name)

    told = listed(capsys)
    assert cli.main(["backends"]) == 0
    table = capsys.readouterr().out

    assert told["acme"] == {
        "name": "acme",
        "distribution": "acme-usage 1.0",
        "object": "acme_usage:Backend",
        "can": [],
        "error": "ModuleNotFoundError: No module named 'acme_usage'",
    }
    assert told["half"]["error"].startswith("AttributeError: module 'half_usage' has no attribute 'Backend'")
    assert told["bad"]["error"] == "ZeroDivisionError: division by zero"
    assert "sqlite" in table
    assert "acme:// cannot be loaded: ModuleNotFoundError: No module named 'acme_usage'" in table


def test_an_extractor_of_another_distribution_reads_its_responses(tmp_path: Path) -> None:
    """An SDK that nobody here knows is counted like the others."""
    modules = {
        "acme": "class Response:\n    model, read, written = 'acme-1', 12, 9\n",
        "acme_usage": (
            "def extract(response, usage):\n"
            "    usage.provider, usage.model = 'acme', response.model\n"
            "    usage.input_tokens, usage.output_tokens = response.read, response.written\n"
            "    return True\n"
        ),
    }
    distribution(tmp_path, "acme-usage", "acme = acme_usage:extract", modules, group="usagekit.extractors")
    program = (
        "import acme\n"
        "from usagekit import Recorder\n"
        "from usagekit.backends.memory import MemoryBackend\n"
        "backend = MemoryBackend()\n"
        "with Recorder(backend, durability='memory') as recorder:\n"
        "    recorder.track_tokens(lambda: acme.Response())()\n"
        "    recorder.flush()\n"
        "(event,) = backend.events\n"
        "print(event.kind, event.provider, event.model, event.input_tokens, event.output_tokens)\n"
    )

    output = said_by([sys.executable, "-c", program], PYTHONPATH=str(tmp_path))

    assert output == "llm acme acme-1 12 9\n"


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own, with the example's wheel, and with usagekit and its dependencies from this one."""
    place = tmp_path_factory.mktemp("example")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # setuptools builds in the tree it is given.
    source = shutil.copytree(EXAMPLE, place / "source")
    said_by([*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", place / "dist", source])
    (wheel,) = (place / "dist").glob("*.whl")
    venv.create(place / "venv", with_pip=False)
    python = place / "venv" / "bin" / "python"
    said_by([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel])
    site = said_by([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    shared = f"{sysconfig.get_path('purelib')}\n{ROOT / 'src'}\n"
    (Path(site) / "shared.pth").write_text(shared)
    return python


def test_the_example_passes_the_suites_from_its_wheel(interpreter: Path, tmp_path: Path) -> None:
    """Its own tests, which are `ReaderContract`, `SinkContract` and one more, run against what is installed."""
    output = said_by(
        [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, EXAMPLE / "tests"],
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
    )

    assert " passed" in output
    assert int(output.rpartition(" passed")[0].split()[-1]) > 40
    assert "skipped" not in output


def test_the_example_is_found_by_its_url(interpreter: Path, tmp_path: Path) -> None:
    """An app in that environment names it in `USAGEKIT_BACKEND`, and `usagekit backends` lists it."""
    program = (
        "from usagekit import Recorder, usage\n"
        "with Recorder(path='spool.db') as recorder:\n"
        "    recorder.track('export', user='ann')\n"
        "    recorder.flush()\n"
        "    while recorder.status()['sinks']['jsonl']['lag']: recorder.flush()\n"
        "    print(usage(recorder, by='user', measures='events').rows)\n"
    )
    moved = f"import os; os.chdir({str(tmp_path)!r})\n{program}"

    output = said_by([interpreter, "-c", moved], USAGEKIT_BACKEND="jsonl:///events.jsonl")
    told = json.loads(said_by([interpreter, "-m", "usagekit", "backends", "--format", "json"]))

    assert output == "[{'user': 'ann', 'events': 1}]\n"
    (example,) = [one for one in told if one["name"] == "jsonl"]
    assert example == {
        "name": "jsonl",
        "distribution": "usagekit-jsonl 0.1.0",
        "object": "usagekit_jsonl:JsonLinesBackend",
        "can": ["write", "read", "url"],
        "error": None,
    }
