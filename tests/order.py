"""The longest files begin first: one that begins last keeps a worker busy long after the others have ended."""

import gc
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

LONGEST = (
    "bench/test_bench.py",
    "model/test_protocol_model.py",
    "blackbox/test_rolling.py",
    "fuzz/test_fuzz.py",
    "image/test_inventory.py",
    "test_endings.py",
    "image/test_wheel.py",
    "clients/test_clients.py",
    "observability/test_workers.py",
    "topologies/test_topologies.py",
    "faults/test_faults.py",
    "observability/test_metrics.py",
    "recordings/test_reconciler.py",
    "recordings/test_without_redis.py",
    "observability/test_traces.py",
    "api/test_events.py",
    "settings_reach/test_every_setting.py",
    "blackbox/test_storm.py",
    "blackbox/test_shutdown.py",
    "blackbox/test_figures.py",
    "blackbox/test_rotation.py",
    "browser/test_watch.py",
    "terminal/test_client.py",
    "api/test_batch.py",
    "browser/test_browser.py",
    "topologies/test_tls.py",
    "test_main.py",
    "api/test_webhooks.py",
    "api/test_api_keys.py",
    "api/test_policy_http.py",
    "blackbox/test_leak_hunt.py",
    "clients/test_examples.py",
)
"""By their seconds. A file that is missing here costs time and nothing else."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others, and the tests within each, keep their random order."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives as long as the session: thousands of tests."""
    if "hypothesis" in sys.modules:
        _run_hypothesis_once()
    gc.freeze()


def _run_hypothesis_once() -> None:
    """Have Hypothesis make its source of random numbers, before what holds that is spared.

    It asks the collector who holds the source. From Python 3.14 on the holder would be among what is spared, the answer
    that nothing does, and the first test of each process that uses Hypothesis would fail of a warning.
    """
    from hypothesis import find, settings, strategies

    find(strategies.none(), lambda _: True, settings=settings(database=None))
