"""What your own tests need: `ProviderServer` answers model SDKs; every reader and sink passes the suites for them.

Nothing here is loaded by usagekit itself, and it needs the standard library alone.

For messages that show both sides of a failed comparison, call
`pytest.register_assert_rewrite("usagekit.testing")` in `conftest.py` before this module is imported.
"""

from __future__ import annotations

from usagekit.testing.contract import ReaderContract
from usagekit.testing.provider import ProviderServer, ReceivedRequest
from usagekit.testing.sinks import SinkContract
from usagekit.testing.wire.exchange import Answer

__all__ = ["Answer", "ProviderServer", "ReaderContract", "ReceivedRequest", "SinkContract"]
