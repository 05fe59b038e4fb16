"""What a histogram of durations adds up to is time that can have passed."""

import time
from collections.abc import Callable

import httpx
import pytest

from tests.observability.numbers import scrape

pytestmark = pytest.mark.anyio

NewTrack = Callable[..., dict[str, str]]


async def test_duration_of_anything_is_no_longer_than_the_test(gateway: httpx.AsyncClient, new_track: NewTrack) -> None:
    """A start, a stop and a read: every histogram of seconds grows, for each count by 0 up to what has passed."""
    began = time.monotonic()
    before = await scrape(gateway)
    track = new_track()
    for command in ("start", "start", "stop"):
        assert (await gateway.post(f"/v1/recordings/track/{command}", json=track)).is_success
    grown = (await scrape(gateway)).since(before)
    passed = time.monotonic() - began

    counts = {series: count for series, count in grown.items() if series[0].endswith("_seconds_count")}
    assert {name for name, _ in counts} >= {
        "gateway_http_request_duration_seconds_count",
        "gateway_phase_duration_seconds_count",
        "gateway_upstream_request_duration_seconds_count",
        "gateway_redis_duration_seconds_count",
    }
    for (name, labels), count in counts.items():
        spent = grown.get((name.removesuffix("_count") + "_sum", labels), 0.0)
        assert 0 <= spent <= count * passed, (name, labels)


async def test_information_is_a_series_of_one(gateway: httpx.AsyncClient) -> None:
    """An information's labels say it; its value is 1, so that a product with it changes nothing."""
    numbers = await scrape(gateway)
    said = [sample for family in numbers.families for sample in family.samples if sample.name.endswith("_info")]
    assert [sample.value for sample in said if sample.name == "gateway_build_info"] == [1.0]
    assert all(sample.value in {0.0, 1.0} for sample in said)
