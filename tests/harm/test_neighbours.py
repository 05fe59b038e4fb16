"""A service whose neighbours do their worst. How long it waits is for `make neighbours`, and not for a test."""

from pathlib import Path

import pytest

from tests.harm.neighbours import measure

pytestmark = [pytest.mark.anyio, pytest.mark.blackbox]


async def test_service_beside_attackers_is_never_refused(tmp_path: Path) -> None:
    """A participant, a reader and a sender of replayed webhooks: they are limited, and take little memory."""
    limits = {"GATEWAY_CALLER_STARTS_PER_MINUTE": "20", "GATEWAY_CALLER_QUESTIONS_PER_MINUTE": "20"}
    figures = await measure(tmp_path, 2, limits)
    assert figures.statuses.keys() == {200, 201}
    assert figures.attacks[429] > 0
    assert figures.attacks.keys() <= {200, 201, 202, 204, 429}
    assert figures.redis_mib < 8
    assert figures.resident_mib < 30
