"""What `identify` sees of a request."""

from __future__ import annotations

import pytest

from usagekit.request import AsgiRequest, Headers, WsgiRequest

ASGI = AsgiRequest({"headers": [(b"x-user-id", b"anna"), (b"content-type", b"text/plain"), (b"x-user-id", b"ben")]})
WSGI = WsgiRequest({"HTTP_X_USER_ID": "anna", "CONTENT_TYPE": "text/plain", "PATH_INFO": "/"})


@pytest.mark.parametrize("headers", [ASGI.headers, WSGI.headers], ids=["ASGI", "WSGI"])
def test_headers_are_found_whatever_their_case_and_however_many_were_asked_for(headers: Headers) -> None:
    """Names are remembered as they are spelled on either side, a few hundred at a time."""
    for number in range(700):
        assert headers.get(f"x-{number}", "none") == "none"

    assert {headers[name] for name in ("x-user-id", "X-User-Id", "X-USER-ID")} == {"anna"}
    assert headers["Content-Type"] == "text/plain"
    assert "x-org-id" not in headers
    assert sorted(headers) == ["content-type", "x-user-id"]
