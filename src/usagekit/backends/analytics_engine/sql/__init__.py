"""The SQL of Analytics Engine on the ledger's own events: parsed, checked, translated to SQLite, run, and shown.

What is accepted is what https://developers.cloudflare.com/analytics/analytics-engine/sql-reference/ documents; results
have the types of ClickHouse, in which Analytics Engine answers.
"""

from __future__ import annotations

from usagekit.backends.analytics_engine.sql.engine import Answer, run
from usagekit.backends.analytics_engine.sql.errors import SqlError

__all__ = ["Answer", "SqlError", "run"]
