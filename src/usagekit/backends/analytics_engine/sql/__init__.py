"""The SQL of Analytics Engine on the ledger's own events: parsed, checked, translated to SQLite, run, and shown.

What is accepted is what https://developers.cloudflare.com/analytics/analytics-engine/sql-reference/ documents; results
have the types of ClickHouse, in which Analytics Engine answers. Importing it raises `MissingDependencyError` where
sqlglot is not installed.
"""

from __future__ import annotations

from usagekit.errors import MissingDependencyError

try:
    import sqlglot as _  # noqa: F401  only to say what to install
except ImportError as error:
    raise MissingDependencyError(
        "Analytics Engine's SQL needs sqlglot, which is not installed; pip install 'usagekit[analytics-engine]'"
    ) from error

from usagekit.backends.analytics_engine.sql.engine import Answer, run
from usagekit.backends.analytics_engine.sql.errors import SqlError

__all__ = ["Answer", "SqlError", "run"]
