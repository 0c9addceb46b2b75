from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {path.parent.name for path in (ROOT / "examples").glob("*/__main__.py")}


def test_an_example_runs_with_one_command() -> None:
    """`--once` ends after the line of figures."""
    command = [sys.executable, "-m", "examples.saas_billing", "--once"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "saas_billing: corner-shop 1 requests $0.00, globex 120 requests $0.41\n"


def test_an_example_serves_until_it_is_stopped() -> None:
    """Without `--once`, where its second line says; SIGTERM and Ctrl-C end it well."""
    command = [sys.executable, "-m", "examples.saas_billing"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        url = re.findall(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]

        answer = httpx2.get(f"{url}/v1/reports")
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()

    assert answer.status_code == 401
    assert (process.returncode, rest) == (0, "\nDone.\n")


def test_every_example_has_a_readme_with_its_command_and_is_linked() -> None:
    """And a test of its own."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    for name in EXAMPLES - {"demo"}:
        text = (ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")
        assert f"python -m examples.{name} " in text
        assert f"examples/{name}/README.md" in readme
        assert (ROOT / "tests" / "examples" / f"test_{name}.py").is_file()
