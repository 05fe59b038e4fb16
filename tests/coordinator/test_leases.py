"""Leases that end while they are renewed."""

import asyncio

import pytest

from gateway.coordinator import Command, Completion, Coordinator, Lease, Record, Timing
from gateway.observability import metrics
from gateway.store.connection import Connection
from tests import harness

pytestmark = pytest.mark.anyio


async def held(connection: Connection) -> tuple[Coordinator, Lease]:
    """Hold a start."""
    coordinator = Coordinator(connection, Timing(lease=0.2, verify_absent="never"), "t")
    _, lease = await coordinator.claim(coordinator.key("room", "p", "video"), Command.START)
    assert lease is not None
    return coordinator, lease


async def test_stop_that_is_heard_of_after_the_end_is_not_kept() -> None:
    """The renewal's reply comes when the leader is done: nothing remembers the stop, which the record does."""
    with harness.AgedValkey() as server:
        connection = Connection(server.url)
        coordinator, lease = await held(connection)
        await coordinator.claim(lease.key, Command.STOP)
        assert (await coordinator.leases.renew(lease)).stop
        assert coordinator.leases.stop_wanted(lease)
        coordinator.leases.drop(lease)
        assert (await coordinator.leases.renew(lease)).stop
        assert not coordinator.leases.stop_wanted(lease)
        await connection.aclose()


async def test_lease_that_ended_during_its_renewal_is_not_counted_as_lost() -> None:
    """The record is another's by then, and that is as it should be; of a living leader it is counted."""
    with harness.AgedValkey() as server:
        connection = Connection(server.url)
        coordinator, lease = await held(connection)
        await coordinator.finish(lease, Completion(record=Record(state="recording", confirmed_by="reply")))
        before = metrics.LEASES_LOST._value.get()
        await coordinator.leases._renew_quietly(lease)
        assert metrics.LEASES_LOST._value.get() == before
        coordinator.leases.hold(lease)
        renewing = asyncio.create_task(coordinator.leases.renew_for_ever())
        await harness.eventually(lambda: coordinator.leases.is_lost(lease))
        assert metrics.LEASES_LOST._value.get() == before + 1
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await connection.aclose()
