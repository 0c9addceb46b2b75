"""An API with paying customers, which writes their bills from what it counted: Flask and usagekit."""

from __future__ import annotations

import hmac
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, current_app, g, jsonify, request

import usagekit.flask
from usagekit import QueryError, statement, usage
from usagekit.backends.analytics_engine import Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usagekit import Recorder

DATASET = "usage_indexed_by_customer_id"
LAYOUT = Layout(index="org", blobs=["route"], where={"kind": "request"})
PRICES = {  # US dollars per request
    "GET /v1/reports": Decimal("0.0002"),
    "GET /v1/reports/<int:number>": Decimal("0.0001"),
    "POST /v1/exports": Decimal("0.01"),
}
CENT = Decimal("0.01")
REPORTS = {1: "January", 2: "February"}

product = Blueprint("product", __name__, url_prefix="/v1")
billing = Blueprint("billing", __name__, url_prefix="/billing")


def create_app(recorder: Recorder, *, customers: Mapping[str, str], operator_key: str) -> Flask:
    """Make the API and its billing.

    Args:
        recorder: where requests are counted.
        customers: the id of each customer, by the key that their programs send.
        operator_key: what the billing department sends.
    """
    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # columns stand as the statement has them
    app.config.update(RECORDER=recorder, CUSTOMERS=dict(customers), OPERATOR_KEY=operator_key)
    usagekit.flask.init_app(app, recorder, exclude=lambda path: not path.startswith("/v1/"))
    app.register_blueprint(product)
    app.register_blueprint(billing)
    app.register_error_handler(QueryError, _refused)
    return app


# What customers pay for.


@product.before_request
def know_customer() -> tuple[Response, int, dict[str, str]] | None:
    """Let customers in only, and have their requests count for them."""
    g.customer = next((customer for key, customer in current_app.config["CUSTOMERS"].items() if _is_key(key)), None)
    if g.customer is None:
        return _unauthorised("a customer's key is needed")
    usagekit.bind(org=g.customer)
    return None


@product.get("/reports")
def list_reports() -> Response:
    """List reports."""
    return jsonify(REPORTS)


@product.get("/reports/<int:number>")
def read_report(number: int) -> Response | tuple[Response, int]:
    """Give a report; a number that is none is not paid for."""
    return jsonify(REPORTS[number]) if number in REPORTS else (jsonify(error="no such report"), 404)


@product.post("/exports")
def export() -> tuple[Response, int]:
    """Begin an export."""
    return jsonify(accepted=True), 202


# What it comes to.


@billing.before_request
def check_operator() -> tuple[Response, int, dict[str, str]] | None:
    """Let the billing department in only."""
    return None if _is_key(current_app.config["OPERATOR_KEY"]) else _unauthorised("the operator's key is needed")


@billing.get("/customers")
def list_customers() -> Response:
    """Say how much each customer used, of all endpoints and of each, the most active first."""
    source = current_app.config["RECORDER"]
    endpoints: dict[str, dict[str, int]] = {}
    for row in usage(source, by=["org", "route"], measures="events", where={"kind": "request"}).rows:
        endpoints.setdefault(row["org"], {})[row["route"]] = row["events"]
    customers = usage(source, by="org", measures="events", where={"kind": "request"}, order="-events")
    return jsonify(
        [
            {"customer_id": row["org"], "count": row["events"], "endpoints": endpoints[row["org"]]}
            for row in customers.rows
            if row["org"]  # whoever came without a key pays nothing
        ]
    )


@billing.get("/bills/<month>")
def list_bills(month: str) -> Response:
    """Write a month's bills, `2026-10`: one question for each customer."""
    customers = sorted(set(current_app.config["CUSTOMERS"].values()))
    return jsonify([bill(current_app.config["RECORDER"], customer, month) for customer in customers])


def bill(recorder: Recorder, customer: str, month: str) -> dict[str, Any]:
    """Write one customer's bill: a line for each day and endpoint, and the sum, rounded once.

    What failed is counted and not charged. Endpoints without a price are free.
    """
    told = statement(recorder, org=customer, month=month)
    lines = [
        {
            "date": line["day"],
            "request_endpoint": line["route"],
            "request_count": line["events"],
            "amount_usd": PRICES.get(line["route"], Decimal(0)) * line["succeeded"],
        }
        for line in told.lines
    ]
    return {
        "customer_id": customer,
        "month": told.month,
        "closed": told.closed,
        "usage_count": told.totals["events"],
        "amount_usd": str(sum((line["amount_usd"] for line in lines), Decimal(0)).quantize(CENT)),
        "lines": [line | {"amount_usd": str(line["amount_usd"])} for line in lines],
    }


@billing.post("/sql")
def ask_in_sql() -> Response:
    """Answer a statement as Analytics Engine would."""
    return jsonify(current_app.config["RECORDER"].sql(request.get_data(as_text=True), datasets={DATASET: LAYOUT}))


def _is_key(key: str) -> bool:
    return hmac.compare_digest(request.headers.get("authorization", "").encode(), f"Bearer {key}".encode())


def _unauthorised(reason: str) -> tuple[Response, int, dict[str, str]]:
    return jsonify(error=reason), 401, {"WWW-Authenticate": "Bearer"}


def _refused(error: Exception) -> tuple[Response, int]:
    return jsonify(error=str(error)), 400
