"""The provider server: what it answers, what it writes down, and how it fails when it is told to."""

from __future__ import annotations

import json
import os
import struct
import threading
from binascii import crc32
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from usagekit.errors import ConfigurationError
from usagekit.testing import Answer, ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAT = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hello"}]}
CHAT_PATH = "/openai/v1/chat/completions"
EVERYTHING = {
    "input_tokens": 1200,
    "output_tokens": 300,
    "cache_read_tokens": 1000,
    "cache_write_tokens": 100,
    "cache_write_1h_tokens": 60,
    "reasoning_tokens": 200,
}


@pytest.fixture
def server() -> Iterator[ProviderServer]:
    """Model providers on this machine."""
    with ProviderServer() as server:
        yield server


def connected(server: ProviderServer) -> HTTPConnection:
    """Connect without any SDK."""
    return HTTPConnection(server.url.removeprefix("http://"), timeout=10)


def post(
    server: ProviderServer, path: str, body: Any = CHAT, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send JSON and give status, headers and body."""
    connection = connected(server)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def data_of(body: bytes) -> list[Any]:
    """Give the data of server-sent events."""
    lines = [line.removeprefix("data: ") for line in body.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


# What is answered


def test_answers_come_in_order_and_then_the_default(server: ProviderServer) -> None:
    """What `next` said is used up; two runs of the same requests get the same bytes."""

    def run() -> list[bytes]:
        server.next(text="first")
        server.next(text="twice", times=2)
        return [post(server, CHAT_PATH)[2] for _ in range(4)]

    bodies = run()
    server.reset()

    texts = [json.loads(body)["choices"][0]["message"]["content"] for body in bodies]
    assert texts == ["first", "twice", "twice", "Hello from the provider server."]
    assert run() == bodies


def test_the_default_can_be_another(server: ProviderServer) -> None:
    """`next` starts from it."""
    server.default = Answer(text="Salut", model="gpt-5-mini-2025-08-07")
    server.next(chunks=1)

    first, second = (json.loads(post(server, CHAT_PATH)[2]) for _ in range(2))

    assert first == second | {"id": first["id"]}
    assert (first["model"], first["choices"][0]["message"]["content"]) == ("gpt-5-mini-2025-08-07", "Salut")


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        (
            "openai",
            {
                "prompt_tokens": 1200,
                "completion_tokens": 300,
                "total_tokens": 1500,
                "prompt_tokens_details": {"cached_tokens": 1000, "audio_tokens": 0, "cache_write_tokens": 100},
                "completion_tokens_details": {
                    "reasoning_tokens": 200,
                    "audio_tokens": 0,
                    "accepted_prediction_tokens": 0,
                    "rejected_prediction_tokens": 0,
                },
            },
        ),
        ("together", {"prompt_tokens": 1200, "completion_tokens": 300, "total_tokens": 1500}),
        (
            "deepseek",
            {
                "prompt_tokens": 1200,
                "completion_tokens": 300,
                "total_tokens": 1500,
                "prompt_tokens_details": {"cached_tokens": 1000},
                "completion_tokens_details": {"reasoning_tokens": 200},
                "prompt_cache_hit_tokens": 1000,
                "prompt_cache_miss_tokens": 200,
            },
        ),
    ],
)
def test_usage_is_told_in_each_providers_words(server: ProviderServer, provider: str, expected: dict[str, Any]) -> None:
    """The numbers are the same everywhere; what a provider cannot say is left out."""
    server.next(usage=EVERYTHING)

    _, _, body = post(server, f"/{provider}/v1/chat/completions")

    assert json.loads(body)["usage"] == expected


def test_reasoning_and_cache_stand_apart_where_a_provider_has_it_so(server: ProviderServer) -> None:
    """Anthropic's input is without cache; Google's and xAI's output without reasoning."""
    server.next(usage=EVERYTHING, times=3)

    message = json.loads(post(server, "/anthropic/v1/messages")[2])["usage"]
    google = json.loads(post(server, "/google/v1beta/models/gemini-2.5-flash:generateContent", {})[2])["usageMetadata"]
    xai = json.loads(post(server, "/xai/v1/chat/completions")[2])["usage"]

    assert message == {
        "input_tokens": 100,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 1000,
        "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60},
        "output_tokens": 300,
        "service_tier": "standard",
        "output_tokens_details": {"thinking_tokens": 200},
    }
    assert (google["candidatesTokenCount"], google["thoughtsTokenCount"], google["totalTokenCount"]) == (100, 200, 1500)
    assert (xai["completion_tokens"], xai["total_tokens"]) == (100, 1500)


def test_a_chat_stream_tells_its_usage_only_when_asked(server: ProviderServer) -> None:
    """Then every chunk has the field, and one more at the end has the numbers and no choices."""
    _, headers, silent = post(server, CHAT_PATH, CHAT | {"stream": True})
    _, _, asked = post(server, CHAT_PATH, CHAT | {"stream": True, "stream_options": {"include_usage": True}})

    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done = data_of(silent)
    assert done == "[DONE]"
    assert not any("usage" in chunk for chunk in chunks)
    *chunks, last, _ = data_of(asked)
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == server.default.text
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 120)


def test_nothing_is_reported_where_usage_is_none(server: ProviderServer) -> None:
    """As old servers do."""
    server.next(usage=None, times=2)

    plain = json.loads(post(server, CHAT_PATH)[2])
    streamed = data_of(post(server, CHAT_PATH, CHAT | {"stream": True, "stream_options": {"include_usage": True}})[2])

    assert "usage" not in plain
    assert all(chunk.get("usage") is None for chunk in streamed[:-1])


def test_the_event_stream_of_bedrock_has_right_checksums(server: ProviderServer) -> None:
    """Each message is framed as AWS describes it; a longer header or body would be noticed by its length."""
    _, headers, body = post(server, "/bedrock/model/amazon.nova-lite-v1%3A0/converse-stream", {})

    assert headers["content-type"] == "application/vnd.amazon.eventstream"
    kinds = []
    while body:
        length, headers_length, prelude_crc = struct.unpack(">III", body[:12])
        message, body = body[:length], body[length:]
        assert prelude_crc == crc32(message[:8])
        assert struct.unpack(">I", message[-4:])[0] == crc32(message[:-4])
        kinds += list(json.loads(message[12 + headers_length : -4]))
    assert kinds == [
        *("role", "delta", "contentBlockIndex", "delta", "contentBlockIndex", "delta", "contentBlockIndex"),
        *("contentBlockIndex", "stopReason", "metrics", "usage"),
    ]


def test_a_body_of_the_tests_own_is_sent_as_it_is(server: ProviderServer) -> None:
    """For shapes that the server does not know."""
    server.next(body={"object": "list", "data": []})
    server.next(body={"detail": "no"}, status=418)

    first, second = post(server, "/openai/v1/models"), post(server, CHAT_PATH)

    assert (first[0], json.loads(first[2])) == (200, {"object": "list", "data": []})
    assert (second[0], json.loads(second[2])) == (418, {"detail": "no"})


# How it fails


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            CHAT_PATH,
            {
                "error": {
                    "message": "Slow down",
                    "type": "requests",
                    "param": None,
                    "code": "rate_limit_exceeded",
                }
            },
        ),
        (
            "/anthropic/v1/messages",
            {
                "type": "error",
                "error": {"type": "rate_limit_error", "message": "Slow down"},
                "request_id": "req_00000001",
            },
        ),
        ("/cohere/v2/chat", {"id": "error-00000001", "message": "Slow down"}),
        ("/ollama/api/chat", {"error": "Slow down"}),
        ("/bedrock/model/m/converse", {"message": "Slow down"}),
    ],
)
def test_errors_come_in_the_providers_format(server: ProviderServer, path: str, expected: dict[str, Any]) -> None:
    """With the headers that SDKs wait by."""
    server.next(status=429, message="Slow down", retry_after=1.5, headers={"x-extra": "1"})

    status, headers, body = post(server, path)

    assert (status, json.loads(body)) == (429, expected)
    assert (headers["retry-after"], headers["x-extra"]) == ("1.5", "1")


def test_an_unknown_path_or_provider_uses_up_no_answer(server: ProviderServer) -> None:
    """The mistake is the test's: it is told what there is."""
    server.next(text="kept")

    path, provider, known = (post(server, at) for at in ("/openai/v1/nothing", "/nobody/v1/chat", CHAT_PATH))

    assert (path[0], json.loads(path[2])["error"]["message"]) == (
        404,
        "the provider server knows no POST /v1/nothing",
    )
    assert provider[0] == 404
    assert "unknown provider 'nobody'; this server has anthropic, azure" in json.loads(provider[2])["error"]["message"]
    assert json.loads(known[2])["choices"][0]["message"]["content"] == "kept"


def test_a_refused_field_uses_up_no_answer(server: ProviderServer) -> None:
    """A client that tries again without it gets the answer that was meant for it."""
    server.refuses.add("stream_options")
    server.next(text="kept")

    refused = post(server, CHAT_PATH, CHAT | {"stream": True, "stream_options": {}})
    taken = post(server, CHAT_PATH, CHAT | {"stream": True})

    assert (refused[0], json.loads(refused[2])["error"]["message"]) == (
        400,
        "Unrecognized request argument supplied: stream_options",
    )
    assert b"k" in taken[2]


def test_connections_break_where_it_says(server: ProviderServer) -> None:
    """Before the answer, within a plain one, and after so many pieces of a stream."""
    server.next(break_after=0)
    server.next(break_after=1)
    server.next(break_after=2, text="abc")

    with pytest.raises(RemoteDisconnected):
        post(server, CHAT_PATH)
    with pytest.raises(IncompleteRead):
        post(server, CHAT_PATH)
    with pytest.raises(IncompleteRead) as broken:
        post(server, CHAT_PATH, CHAT | {"stream": True})

    contents = [chunk["choices"][0]["delta"]["content"] for chunk in data_of(broken.value.partial)]
    assert contents == ["", "a", "b"]
    assert [request.wait() for request in server.requests] == ["broken"] * 3


def test_a_stream_can_report_an_error_within(server: ProviderServer) -> None:
    """In the provider's words; where it has none, the connection breaks."""
    server.next(fail_after=1, text="abc", times=2)

    _, _, body = post(server, "/anthropic/v1/messages", {"model": "claude-sonnet-4-6", "stream": True})
    with pytest.raises(IncompleteRead):
        post(server, "/cohere/v2/chat", {"stream": True})

    *_, before, last = data_of(body)
    assert before["delta"] == {"type": "text_delta", "text": "a"}
    assert last == {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def test_a_held_stream_waits_and_notices_who_leaves(server: ProviderServer) -> None:
    """The first piece comes at once, the rest when the event is set; a client that goes away ends it."""
    go_on = threading.Event()
    server.next(hold=go_on, text="abc")
    server.next(hold=threading.Event(), text="abc")
    with openai.OpenAI(base_url=server.openai, api_key="test-key") as client:
        stream = client.chat.completions.create(model="gpt-5-mini", messages=[], stream=True)
        begun = [next(stream).choices[0].delta.content for _ in range(2)]
        assert server.requests[0].outcome == ""
        go_on.set()
        rest = [chunk.choices[0].delta.content for chunk in stream]

        left = client.chat.completions.create(model="gpt-5-mini", messages=[], stream=True)
        next(left)
        left.close()

    assert (begun, rest) == (["", "a"], ["b", "c", None])
    assert [request.wait() for request in server.requests] == ["whole", "left"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"usage": {"tokens": 5}}, "unknown usage 'tokens'; use some of input_tokens, output_tokens"),
        ({"usage": {"input_tokens": 5, "cache_read_tokens": 6}}, "input_tokens includes cached tokens"),
        ({"usage": {"output_tokens": 5, "reasoning_tokens": 6}}, "output_tokens reasoning: raise them"),
        ({"chunks": 0}, "chunks=0 leaves no stream; use 1 or more"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(server: ProviderServer, options: dict[str, Any], reason: str) -> None:
    """At once, where the test says it."""
    with pytest.raises(ConfigurationError) as refused:
        server.next(**options)

    assert reason in str(refused.value)


# What is written down


def test_requests_are_written_down_without_secrets(server: ProviderServer) -> None:
    """Keys are hidden in headers and left out of queries."""
    secrets = {"Authorization": "Bearer sk-1", "X-Api-Key": "sk-2", "x-goog-api-key": "sk-3", "X-Other": "seen"}

    post(server, CHAT_PATH + "?key=sk-4&api-version=1", headers=secrets)

    (request,) = server.requests
    assert request.wait() == "whole"
    assert "sk-" not in repr(request)
    assert (request.number, request.provider, request.method, request.path, request.query, request.body) == (
        1,
        "openai",
        "POST",
        "/v1/chat/completions",
        {"api-version": "1"},
        CHAT,
    )
    assert (request.headers["authorization"], request.headers["x-other"]) == ("(hidden)", "seen")


def test_forms_are_read_without_their_files(server: ProviderServer) -> None:
    """Transcriptions come as forms; by time, or by tokens."""
    server.next(usage={"seconds": 12.5}, text="Good morning.")
    with openai.OpenAI(base_url=server.openai, api_key="test-key") as client:
        answer = client.audio.transcriptions.create(model="whisper-1", file=("speech.wav", b"RIFF"))

    assert answer.model_dump(exclude_none=True) == {
        "text": "Good morning.",
        "usage": {"seconds": 12.5, "type": "duration"},
    }
    assert server.requests[0].body == {"model": "whisper-1"}


def test_many_clients_at_once(server: ProviderServer) -> None:
    """Each request is counted once and answered once."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: json.loads(post(server, CHAT_PATH)[2])["id"], range(200)))

    assert len(set(answers)) == 200
    assert [request.number for request in server.requests] == list(range(1, 201))


# Where it is


def test_clients_find_it_by_the_environment(server: ProviderServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that makes its own clients needs no change, whatever proxy the machine has."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)

    azure = openai.AzureOpenAI(api_version="2025-01-01")
    with openai.OpenAI() as chat, anthropic.Anthropic() as messages, azure:
        said = chat.chat.completions.create(model="gpt-5-mini", messages=[]).choices[0].message.content
        block = messages.messages.create(model="claude-sonnet-4-6", max_tokens=10, messages=[]).content[0]
        deployed = azure.chat.completions.create(model="my-deployment", messages=[])

    assert (said, getattr(block, "text", "")) == (server.default.text, server.default.text)
    assert deployed.model == "my-deployment"
    assert [request.provider for request in server.requests] == ["openai", "anthropic", "azure"]
    assert os.environ["NO_PROXY"] == "127.0.0.1"


def test_nothing_of_it_is_left_when_it_is_closed() -> None:
    """Threads and connections end with it, also those that clients keep alive; then it has no address."""
    before = set(threading.enumerate())
    with ProviderServer() as server:
        kept = connected(server)
        kept.request("GET", "/openai/v1/models")
        assert kept.getresponse().read()

    assert set(threading.enumerate()) - before == set()
    kept.close()
    with pytest.raises(ConfigurationError, match="does not run; use it as `with ProviderServer"):
        _ = server.openai
