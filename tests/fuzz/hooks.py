"""Which answers are right although they look wrong, each for one reason that the request itself gave.

Schemathesis loads this. Everything but these exceptions goes to its own checks.
"""

from typing import Any

import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

_PATIENT_MS = 10_000
"""Whoever wants to wait this long must not be told that time is up: the simulator answers at once."""
_IN_WORDS = frozenset({"webhookUrl", "bucketDirPath"})
"""What is a good one is more than a schema can say. The tables of honest values have their own tests."""


@schemathesis.check
def no_server_error(ctx: Any, response: Any, case: Any) -> bool | None:
    """Allow 504 where the caller did not want to wait; no other status from 500 on."""
    if response.status_code == 504 and 0 < _deadline(case) < _PATIENT_MS:
        return None
    return not_a_server_error(ctx, response, case)


@schemathesis.check
def valid_data_accepted(ctx: Any, response: Any, case: Any) -> bool | None:
    """Allow 422 for an idempotency key used twice and for a bad address or path; 401 for what nobody can sign."""
    if response.status_code == 422:
        problem = response.json()
        if problem["type"] == "/problems/idempotency-key-reused":
            return None
        if (wrong := {error["field"] for error in problem.get("errors", ())}) and wrong <= _IN_WORDS:
            return None
    if response.status_code == 401 and case.path == "/v1/webhooks/videosdk":
        return None  # only VideoSDK can sign; what it signs has its own tests
    return positive_data_acceptance(ctx, response, case)


def _deadline(case: Any) -> int:
    try:
        return int((case.headers or {}).get("x-request-timeout-ms", ""))
    except ValueError:
        return 0
