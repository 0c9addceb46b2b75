"""From fields of events to attributes by semantic convention, few of each.

Sources: https://opentelemetry.io/docs/specs/semconv/http/http-metrics/ and
https://github.com/open-telemetry/semantic-conventions-genai
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usagekit.event import UsageEvent

OTHER = "other"
UNKNOWN = "_OTHER"  # the conventions' word where a required attribute has no value of its list

NO_ANSWER, WENT_AWAY = 599, 499

_METHODS = frozenset("CONNECT DELETE GET HEAD OPTIONS PATCH POST PUT QUERY TRACE".split())
_PROVIDERS = {
    "aws": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshotai": "moonshot_ai",
    "x-ai": "x_ai",
}

Attributes = dict[str, str | int]


class Capped:
    """The values of one attribute: the first `limit` as they are, later ones as `"other"`; for the process's life."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: set[str] = set()

    def __call__(self, value: str) -> str:
        """Give what stands for `value`."""
        if value not in self._values:
            if len(self._values) >= self._limit:
                return OTHER
            self._values.add(value)
        return value


def method_and_template(route: str) -> tuple[str, str]:
    """Split `"GET /items/{id}"`; the template is `""` where no route matched."""
    method, _, template = route.partition(" ")
    return method if method in _METHODS else UNKNOWN, template if template.startswith("/") else ""


def provider_name(provider: str) -> str:
    """Give a provider's name by the convention."""
    return _PROVIDERS.get(provider, provider) or UNKNOWN


def operation_name(event: UsageEvent) -> str:
    """Give what a model was asked for: events do not say, so it is chat, unless the model is one of embeddings."""
    return "embeddings" if "embed" in event.model.lower() else "chat"


def call_error(event: UsageEvent) -> str:
    """Give a model call's `error.type`; `""` where it went well."""
    if event.status == NO_ANSWER:
        return UNKNOWN
    if event.status == WENT_AWAY:
        return "cancelled"
    return str(event.status) if event.status >= 400 else ""


def request_error(event: UsageEvent) -> str:
    """Give a request's `error.type`; `""` where it went well, or the client was at fault."""
    if event.status == WENT_AWAY:
        return "client_disconnected"
    return str(event.status) if event.status >= 500 else ""


def status_class(status: int) -> str:
    """Give `"2xx"`, or `"none"` for 0."""
    return f"{status // 100}xx" if status else "none"
