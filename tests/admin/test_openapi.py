"""openapi.json describes what is there: schemathesis makes requests of it, and looks at the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from tests.admin.shells import MOUNT, TOKEN, get, of_asgi
from tests.admin.test_auth import SECRETS
from usagekit.admin import BearerAuth, openapi
from usagekit.query import DIMENSIONS, MEASURES

if TYPE_CHECKING:
    from usagekit import Recorder

EXAMPLES = 20
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def schema(recorded: Recorder) -> Any:
    """Give schemathesis what the endpoint says of itself."""
    app = of_asgi(recorded, auth=BearerAuth(TOKEN))
    config = schemathesis.Config.from_path(ROOT / "schemathesis.toml")
    headers = {"authorization": f"Bearer {TOKEN}"}
    return schemathesis.openapi.from_asgi(f"{MOUNT}/openapi.json", app, config=config, headers=headers)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", ["/api/usage", "/api/summary", "/api/health", "/openapi.json"])
def test_answers_are_as_described(schema: Any, path: str, mode: GenerationMode) -> None:
    """Status, type and schema of every answer; never above 422; nothing at all for who has no token."""
    operation = schema[path]["GET"]
    if mode is GenerationMode.NEGATIVE and not operation.query:
        mode = GenerationMode.POSITIVE  # nothing can be wrong

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def check(case: Any) -> None:
        anonymous = case.call(headers={"authorization": ""})
        assert anonymous.status_code == 401
        assert not any(secret in anonymous.content for secret in SECRETS)
        # What ignored_auth would ask, was asked above.
        answer = case.call_and_validate(
            headers={"authorization": f"Bearer {TOKEN}"}, excluded_checks=[checks.ignored_auth]
        )
        assert answer.status_code < 500

    check()


def test_it_names_everything(app: Any) -> None:
    """All dimensions, the app's own too, all measures, and where it is."""
    document = json.loads(get(app, "/openapi.json").body)

    parameters = {each["name"]: each for each in document["paths"]["/api/usage"]["get"]["parameters"]}
    assert {*DIMENSIONS, "plan", "period", "days", "start", "end", "tz", "format"} <= parameters.keys()
    assert parameters["measures"]["schema"]["items"]["enum"] == list(MEASURES)
    assert document["servers"][0] == {"url": MOUNT}
    assert set(document["paths"]) == {"/api/usage", "/api/summary", "/api/health", "/openapi.json"}


def test_every_zone_it_names_is_known() -> None:
    """None is refused afterwards."""
    from usagekit.query.periods import time_zone

    zones = openapi.description((), "", is_scoped=False)["paths"]["/api/usage"]["get"]["parameters"]
    names = next(each for each in zones if each["name"] == "tz")["schema"]["enum"]

    assert len([time_zone(name) for name in names]) > 400
