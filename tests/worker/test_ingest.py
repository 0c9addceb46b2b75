"""What the ingest Worker takes and refuses, in Cloudflare's runtime."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stores import eventually
from tests.support.workerd import KEY, Point, Workerd, serving_worker, wrangler_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POINT = {"indexes": ["ann"], "blobs": ["a", "é", "😀"], "doubles": [1.5, -2]}
OTHER_KEY = "another-key-another-key-another-key"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workerd]:
    """Give a Worker in the middle of a rotation of its keys."""
    secrets = {"INGEST_KEY": KEY, "INGEST_KEY_NEXT": OTHER_KEY}
    with serving_worker(tmp_path_factory.mktemp("worker"), secrets=secrets) as running:
        yield running


def body_of(points: object, dataset: str = "usagekit") -> bytes:
    """Give a batch as it is sent."""
    return json.dumps({"dataset": dataset, "points": points}).encode()


def signed(body: bytes, batch_id: str, *, key: str = KEY, late: int = 0) -> dict[str, str]:
    """Give the headers of a batch that is sent `late` seconds ago."""
    now = str(int(time.time()) - late)
    message = f"{now}.{batch_id}.{hashlib.sha256(body).hexdigest()}"
    signature = hmac.new(key.encode(), message.encode(), "sha256").hexdigest()
    return {"usagekit-time": now, "usagekit-batch": batch_id, "usagekit-signature": signature}


def send(worker: Workerd, points: object, batch_id: str, **options: Any) -> tuple[int, Any]:
    """Post points as a sink does."""
    body = body_of(points)
    return worker.post(body, signed(body, batch_id, **options))


def came_out(worker: Workerd, count: int) -> list[Point]:
    """Give what the binding was given, when it is `count` points."""
    points: list[Point] = []

    def is_all() -> bool:
        points.extend(worker.take())
        return len(points) >= count

    assert eventually(is_all), points
    return points


def answered(points: int, *, replay: bool = False) -> tuple[int, dict[str, Any]]:
    """Give what a batch that was written is answered."""
    return 200, {"points": points, "written": points, "refused": 0, "replay": replay}


def test_a_batch_is_written_as_it_is_and_only_once(worker: Workerd) -> None:
    """The same id again is answered the same, and writes nothing, whatever key it is signed with."""
    first = send(worker, [POINT, {"indexes": [], "blobs": [], "doubles": []}], "once")
    again = [send(worker, [POINT], "once", key=key, late=late) for key in (KEY, OTHER_KEY) for late in (0, 290)]
    after = send(worker, [POINT], "twice")

    assert (first, again, after) == (answered(2), [answered(2, replay=True)] * 4, answered(1))
    blobs, doubles = ("a", "é", "😀", *[""] * 17), (1.5, -2.0, *[0.0] * 18)
    full, empty = Point("usagekit", "ann", blobs, doubles), Point("usagekit", "", ("",) * 20, (0.0,) * 20)
    assert came_out(worker, 3) == [full, empty, full]


def test_what_a_killed_worker_wrote_is_remembered(tmp_path: Path) -> None:
    """What it knows lies on disk before it answers."""
    with serving_worker(tmp_path) as worker:
        before = send(worker, [POINT] * 250, "batch")
        worker.kill()
        worker.start()

        again = send(worker, [POINT] * 250, "batch")

        assert (before, again) == (answered(250), answered(250, replay=True))
        assert send(worker, [POINT], "next") == answered(1)
        assert len(came_out(worker, 1)) == 1


def test_an_invocation_that_is_cut_short_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """The sink sends the same batch until all of it is written; no point is written twice, and none is lost."""
    points = [POINT | {"doubles": [n]} for n in range(250)]
    with serving_worker(tmp_path, limited=True) as worker:
        answers = [send(worker, points, "batch")[1] for _ in range(4)]
        out = came_out(worker, 250)

    assert [(answer["written"], answer["replay"]) for answer in answers] == [
        (100, False),
        (200, False),
        (250, False),
        (250, True),
    ]
    assert sorted(point.doubles[0] for point in out) == list(range(250))


def test_a_point_that_the_runtime_refuses_does_not_keep_the_others_out(tmp_path: Path) -> None:
    """Behind others it may be the limit, so the batch comes again; then it is known to be at fault itself."""
    points = [POINT, POINT | {"indexes": ["refused"]}, POINT]
    with serving_worker(tmp_path, limited=True) as worker:
        answers = [send(worker, points, "batch") for _ in range(3)]
        out = came_out(worker, 2)

    assert answers == [
        (200, {"points": 3, "written": 1, "refused": 0, "replay": False}),
        (200, {"points": 3, "written": 2, "refused": 1, "replay": False}),
        (200, {"points": 3, "written": 2, "refused": 1, "replay": True}),
    ]
    assert [point.index1 for point in out] == ["ann", "ann"]


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"usagekit-signature": "0" * 64}, 401, "usagekit-signature does not fit"),
        ({"usagekit-signature": ""}, 401, "usagekit-signature does not fit"),
        ({"usagekit-signature": "é" * 64}, 401, "usagekit-signature does not fit"),
        ({"usagekit-batch": "somebody-elses"}, 401, "usagekit-signature does not fit"),
        ({"usagekit-batch": "a b"}, 400, "usagekit-time must hold seconds since 1970"),
        ({"usagekit-batch": "a" * 129}, 400, "usagekit-time must hold seconds since 1970"),
        ({"usagekit-time": "now"}, 400, "usagekit-time must hold seconds since 1970"),
    ],
)
def test_headers_that_are_wrong(worker: Workerd, change: dict[str, str], status: int, error: str) -> None:
    """Time, batch id and body are signed together."""
    body = body_of([POINT])
    headers = {name: value.encode("utf-8").decode("latin-1") for name, value in change.items()}

    answer = worker.post(body, signed(body, "good") | headers)

    assert (answer[0], answer[1]["error"].startswith(error)) == (status, True), answer
    assert worker.take() == []


def test_what_is_not_signed_by_a_key_of_this_worker(worker: Workerd) -> None:
    """Another key, another body, or an attempt that is more than five minutes off, either way."""
    body = body_of([POINT])

    tampered = worker.post(body_of([POINT, POINT]), signed(body, "one"))
    foreign = send(worker, [POINT], "two", key="f" * 32)
    old, early = (send(worker, [POINT], "three", late=late) for late in (400, -400))

    assert (tampered[0], foreign[0], old[0], early[0]) == (401, 401, 401, 401)
    assert re.match(r"usagekit-time is 4\d\d s behind the clock here, more than 300 s off", old[1]["error"])
    assert worker.take() == []


@pytest.mark.parametrize(
    ("points", "error"),
    [
        ([], "a batch has 1 to 250 points, this has 0"),
        ([POINT] * 251, "a batch has 1 to 250 points, this has 251"),
        ({}, 'the body must be {"dataset"'),
        ([POINT, 5], "point 1: must be {"),
        ([POINT, None], "point 1: must be {"),
        ([{}], "point 0: indexes must be at most one string"),
        ([POINT | {"indexes": ["a", "b"]}], "point 0: indexes must be at most one string"),
        ([POINT | {"indexes": [5]}], "point 0: indexes must be at most one string"),
        ([POINT | {"indexes": ["é" * 49]}], "point 0: the index has more than 96 bytes"),
        ([POINT | {"blobs": "abc"}], "point 0: blobs must be at most 20 strings"),
        ([POINT | {"blobs": ["a"] * 21}], "point 0: blobs must be at most 20 strings"),
        ([POINT | {"blobs": ["a", 5]}], "point 0: blobs must be at most 20 strings"),
        ([POINT | {"blobs": ["\ud800"]}], "point 0: blobs must be at most 20 strings"),
        ([POINT | {"blobs": ["é" * 4000, "é" * 4000, "a"]}], "point 0: blobs have more than 16000 bytes together"),
        ([POINT | {"doubles": [0.0] * 21}], "point 0: doubles must be at most 20 finite numbers"),
        ([POINT | {"doubles": ["12.5"]}], "point 0: doubles must be at most 20 finite numbers"),
        ([POINT | {"doubles": [True]}], "point 0: doubles must be at most 20 finite numbers"),
        ([POINT | {"timestamp": 5}], 'point 0: "timestamp" is no part of a point'),
    ],
)
def test_one_point_that_cannot_be_written_keeps_the_whole_batch_out(worker: Workerd, points: Any, error: str) -> None:
    """It is all checked before the first is written, and says which point it was."""
    status, answer = send(worker, points, "invalid")

    assert (status, answer["error"][: len(error)]) == (422, error)
    assert worker.take() == []


def test_bodies_that_are_no_batch(worker: Workerd) -> None:
    """Neither other formats nor numbers that no double holds."""
    bodies = (b"", b"\xff{}", b"[]", b'{"dataset": 5, "points": []}')
    infinite = body_of([POINT]).replace(b"1.5", b"1e999")

    answers = [worker.post(body, signed(body, "odd")) for body in (*bodies, infinite)]

    assert [status for status, _ in answers] == [422] * 5
    assert answers[-1][1] == {"error": "point 0: doubles must be at most 20 finite numbers"}


def test_a_point_may_be_as_large_as_the_runtime_takes(worker: Workerd) -> None:
    """Twenty blobs of 800 bytes, an index of 96."""
    point = {"indexes": ["é" * 48], "blobs": ["é" * 400] * 20, "doubles": [1e308] * 20}

    assert send(worker, [point], "large") == answered(1)

    assert came_out(worker, 1) == [Point("usagekit", "é" * 48, ("é" * 400,) * 20, (1e308,) * 20)]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(worker: Workerd) -> None:
    """By its declared length, of which nothing was sent yet; or, undeclared, when there is too much of it."""
    expected = (413, {"error": "a batch has at most 1000000 bytes"})
    headers = signed(b"", "large")
    connection = HTTPConnection("127.0.0.1", worker.port, timeout=10)
    connection.putrequest("POST", "/v1/batches")
    for name, value in (headers | {"content-length": "1000001"}).items():
        connection.putheader(name, value)
    connection.endheaders()
    declared = connection.getresponse()

    assert (declared.status, json.loads(declared.read())) == expected
    connection.close()

    connection = HTTPConnection("127.0.0.1", worker.port, timeout=10)
    connection.request("POST", "/v1/batches", iter([b"x" * 600_000, b"x" * 600_000]), headers, encode_chunked=True)
    streamed = connection.getresponse()

    assert (streamed.status, json.loads(streamed.read())) == expected
    connection.close()


def test_other_methods_paths_and_datasets(worker: Workerd) -> None:
    """None is rejected for good: the sink may have been given a wrong address."""
    body = body_of([POINT], "usagekit_staging")

    elsewhere = worker.post(body, signed(body, "one"), path="/v1")
    below = worker.post(body_of([POINT]), signed(body_of([POINT]), "below"), path="/usage/v1/batches")
    unknown = worker.post(body, signed(body, "two"))
    connection = HTTPConnection("127.0.0.1", worker.port, timeout=10)
    connection.request("GET", "/v1/batches")
    got = connection.getresponse()

    assert elsewhere == (404, {"error": "there is nothing here but /v1/batches"})
    assert below == answered(1)
    assert unknown == (404, {"error": 'there is no dataset "usagekit_staging" here, but usagekit'})
    assert (got.status, got.getheader("allow")) == (405, "POST")
    got.read()
    connection.close()
    assert len(came_out(worker, 1)) == 1


@pytest.mark.parametrize("secrets", [{}, {"INGEST_KEY": ""}, {"INGEST_KEY": "short"}])
def test_without_a_key_nobody_gets_in(tmp_path: Path, secrets: dict[str, str]) -> None:
    """Neither does an empty one count, nor one that can be guessed; the sink waits."""
    with serving_worker(tmp_path, secrets=secrets) as worker:
        body = body_of([POINT])
        key = secrets.get("INGEST_KEY") or "x"

        status, answer = worker.post(body, signed(body, "batch", key=key))

    assert (status, answer) == (503, {"error": "INGEST_KEY is not set, or shorter than 32 characters"})


def test_the_staging_environment_writes_to_its_own_dataset(tmp_path: Path) -> None:
    """It has no binding to the other one at all."""
    with serving_worker(tmp_path, "staging") as worker:
        body = body_of([POINT], "usagekit_staging")

        taken = worker.post(body, signed(body, "staged"))
        refused = send(worker, [POINT], "other")

        assert (taken, refused[0]) == (answered(1), 404)
        assert [point.dataset for point in came_out(worker, 1)] == ["usagekit_staging"]


@pytest.mark.parametrize("environment", ["", "staging"])
def test_each_environment_has_what_the_worker_needs(environment: str) -> None:
    """Bindings do not pass from the top of wrangler.jsonc to an environment; each needs all of its own."""
    config = wrangler_config(environment)

    bound = {entry["binding"]: entry["dataset"] for entry in config["analytics_engine_datasets"]}
    assert config["vars"]["DATASETS"] == {dataset: binding for binding, dataset in bound.items()}
    assert config["durable_objects"]["bindings"] == [{"name": "BATCHES", "class_name": "Batches"}]
    assert config["migrations"][0]["new_sqlite_classes"] == ["Batches"]
