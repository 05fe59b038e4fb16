"""Which answers are right although they look wrong, each for one reason that the request itself gave.

Schemathesis loads this. Everything but these exceptions goes to its own checks.
"""

from typing import Any

import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
)

_STREAM_MS = 100
"""An answer that need not end is asked to, soon."""
_PATIENT_MS = 10_000
"""A caller who waits this long must not be answered that time is up: the simulator answers at once."""
_IN_WORDS = frozenset({"webhookUrl", "templateUrl", "bucketDirPath", "items"})
"""What is a good one is more than a schema can say: of items, how many they are once their kinds are counted. The
tables of honest values have their own tests."""


@schemathesis.hook
def before_call(_context: Any, case: Any, _options: Any) -> None:
    """Have streams end; one that is asked to end at a time that is none is refused, and ends as well."""
    if case.operation.path.endswith("/events") and (case.method == "GET") and _deadline(case) is not None:
        case.headers["x-request-timeout-ms"] = str(_STREAM_MS)


@schemathesis.check
def no_server_error(ctx: Any, response: Any, case: Any) -> bool | None:
    """Allow 504 where the caller did not want to wait; no other status from 500 on."""
    if response.status_code == 504 and 0 < (_deadline(case) or 0) < _PATIENT_MS:
        return None
    return not_a_server_error(ctx, response, case)


@schemathesis.check
def valid_data_accepted(ctx: Any, response: Any, case: Any) -> bool | None:
    """Allow 422 for an idempotency key used twice and for a bad address or path; 401 for what cannot be signed."""
    if response.status_code == 422:
        problem = response.json()
        if problem["type"] == "/problems/idempotency-key-reused":
            return None
        if (wrong := {error["field"] for error in problem.get("errors", ())}) and wrong <= _IN_WORDS:
            return None
    if response.status_code == 401 and case.path == "/v1/webhooks/videosdk":
        return None  # only VideoSDK can sign; what it signs has its own tests
    return positive_data_acceptance(ctx, response, case)


@schemathesis.check
def invalid_data_refused(ctx: Any, response: Any, case: Any) -> bool | None:
    """Allow a batch its 200 where the item that is not valid is refused by itself."""
    if (
        response.status_code == 200
        and case.operation.path.endswith("/batch")
        and any(result["status"] == 422 for result in response.json()["results"])
    ):
        return None
    return negative_data_rejection(ctx, response, case)


@schemathesis.check
def auth_not_ignored(ctx: Any, response: Any, case: Any) -> bool | None:
    """Allow a stream without a key where it was opened with a ticket, which an earlier answer gave away."""
    if _is_stream(response) and "ticket" in (case.query or {}):
        return None
    return ignored_auth(ctx, response, case)


@schemathesis.check
def schema_kept(ctx: Any, response: Any, case: Any) -> bool | None:
    """Leave out streams: OpenAPI 3.1 can say of one that it is text, and not what its events are."""
    return None if _is_stream(response) else response_schema_conformance(ctx, response, case)


def _is_stream(response: Any) -> bool:
    return response.status_code == 200 and response.headers["content-type"][0].startswith("text/event-stream")


def _deadline(case: Any) -> int | None:
    """Return how long the caller wants to wait: 0 where it does not say, None where what it says is nonsense."""
    try:
        return int((case.headers or {}).get("x-request-timeout-ms", "0"))
    except ValueError:
        return None
