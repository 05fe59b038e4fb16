"""The simulator breaks what its rules name, as often as they say, and keeps a record of it."""

import asyncio
import json
import sys
import time

import httpx
import pytest

from gateway.sandbox.faults import Fault, Faults, Subject
from tests import harness

pytestmark = pytest.mark.anyio

TRACKS = "/v2/recordings/participant/track"


def simulator_has(simulator, count):
    """Return the condition that a number of calls has arrived."""

    def condition() -> bool:
        return len(simulator.calls) >= count

    return condition


def call_is_over(simulator):
    """Return the condition that the first call has been ended, by either side."""

    def condition() -> bool:
        return bool(simulator.calls[0].answered or simulator.calls[0].gone)

    return condition


@pytest.mark.parametrize(
    ("rule", "error", "applied"),
    [
        ({"action": "reset_before"}, httpx.ReadError, False),
        ({"action": "reset_after"}, httpx.ReadError, True),
        ({"action": "garbage"}, httpx.RemoteProtocolError, False),
        ({"action": "garbage", "applied": True}, httpx.RemoteProtocolError, True),
        ({"action": "half_response"}, httpx.RemoteProtocolError, False),
        ({"action": "half_response", "applied": True}, httpx.RemoteProtocolError, True),
        ({"action": "hang_before"}, httpx.ReadTimeout, False),
        ({"action": "hang_after"}, httpx.ReadTimeout, True),
    ],
)
async def test_start_without_an_answer(pair, rule, error, applied):
    """The client sees the connection fail in one way, whether or not the start took effect."""
    simulator, client = pair
    await client.inject({"endpoint": "start", **rule})
    client.timeout = httpx.Timeout(0.2)
    with pytest.raises(error):
        await client.start()
    await harness.eventually(call_is_over(simulator))
    assert simulator.calls[0].fault == rule["action"]
    assert simulator.calls[0].took_effect is applied
    assert len(simulator.rows) == applied
    assert (await client.start()).status_code == (409 if applied else 200), "the rule held for one call only"


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("action", ["refuse", "error_after_apply"])
async def test_refusal_of_any_status_can_be_injected(client, simulator, status, action):
    """Every status can be answered, and be true or a lie."""
    await client.inject({"action": action, "endpoint": "start", "status": status, "headers": {"Retry-After": "7"}})
    answer = await client.start()
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "7")
    assert len(simulator.rows) == (action == "error_after_apply")


@pytest.mark.parametrize(
    ("shape", "kind", "body"),
    [
        ("text", "text/plain; charset=utf-8", "no"),
        ("string", "application/json; charset=utf-8", '"no"'),
        ("message", "application/json; charset=utf-8", '{"message":"no"}'),
        ("error", "application/json; charset=utf-8", '{"error":"no"}'),
        ("msg", "application/json; charset=utf-8", '{"msg":"no"}'),
        ("statusMessage", "application/json; charset=utf-8", '{"statusMessage":"no"}'),
        ("code", "application/json; charset=utf-8", '{"message":"no","code":"E409"}'),
        ("empty", "application/json; charset=utf-8", ""),
    ],
)
async def test_errors_come_in_every_shape(client, shape, kind, body):
    """Each body that the vendor's own client can read can be answered."""
    await client.inject({"action": "refuse", "status": 409, "body": shape, "text": "no"})
    answer = await client.start()
    assert (answer.headers["content-type"], answer.text) == (kind, body)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_delay_comes_before_or_after_the_effect(client, simulator, when):
    """The wait lies between arrival and effect, or between effect and answer; waits add up."""
    delay = {"action": "delay", "endpoint": "start", "seconds": 0.4, "when": when, "times": None}
    await client.inject(delay, delay)
    assert (await client.start()).status_code == 200
    (call,) = simulator.calls
    assert call.fault == "delay"
    waits = {"before": call.applied - call.received, "after": call.answered - call.applied}
    assert waits.pop(when) >= 0.79
    assert waits.popitem()[1] < 0.4


async def test_delay_and_another_fault_go_together(client, simulator):
    """A slow refusal: the delay first, then the first other rule."""
    await client.inject(
        {"action": "delay", "seconds": 0.1}, {"action": "refuse", "status": 503}, {"action": "refuse", "status": 400}
    )
    assert (await client.start()).status_code == 503
    assert simulator.calls[0].answered - simulator.calls[0].received >= 0.1
    assert [rule.status for rule in simulator.faults] == [400]


@pytest.mark.parametrize(("how", "error"), [("hang", httpx.ReadTimeout), ("reset", httpx.ReadError)])
async def test_start_may_take_effect_after_the_client_gave_up(pair, how, error):
    """A late start: the list shows nothing at first, a recording later."""
    simulator, client = pair
    await client.inject({"action": "apply_late", "endpoint": "start", "seconds": 2, "how": how})
    # A reset comes by itself; a call that hangs is given up, but not before it has arrived.
    client.timeout = httpx.Timeout(0.5 if how == "hang" else 10)
    with pytest.raises(error):
        await client.start()
    client.timeout = httpx.Timeout(30)
    assert await client.list(roomId="abcd-efgh-ijkl") == []

    async def listed():
        return await client.list(roomId="abcd-efgh-ijkl")

    await harness.until(listed)
    call = simulator.calls[0]
    assert call.took_effect
    assert call.applied - call.received >= 1.99


async def test_client_that_hangs_up_cancels_nothing(client, simulator):
    """An upstream goes on with what it was asked, as it must be expected to."""
    await client.inject({"action": "delay", "endpoint": "start", "seconds": 1.5})
    client.timeout = httpx.Timeout(0.5)
    with pytest.raises(httpx.ReadTimeout):
        await client.start()
    await harness.eventually(call_is_over(simulator))
    assert simulator.calls[0].took_effect
    assert simulator.calls[0].answered is None


async def test_list_can_be_empty_once(client):
    """One empty page, and the next is true again."""
    await client.start()
    await client.inject({"action": "empty_once", "endpoint": "list"})
    assert await client.list(roomId="abcd-efgh-ijkl") == []
    assert len(await client.list(roomId="abcd-efgh-ijkl")) == 1


async def test_list_can_fail(client):
    """An error instead of a page."""
    await client.inject({"action": "error", "endpoint": "list"})
    assert (await client.get(TRACKS)).status_code == 500
    assert (await client.get(TRACKS)).status_code == 200


@pytest.mark.parametrize(
    ("endpoint", "method", "path"),
    [
        ("list", "GET", TRACKS),
        ("get", "GET", f"{TRACKS}/0123"),
        ("delete", "DELETE", f"{TRACKS}/0123"),
        ("key", "GET", "/v2/public/rsa-public-key"),
        ("sessions", "GET", "/v2/sessions"),
    ],
)
async def test_every_endpoint_can_fail(client, endpoint, method, path):
    """Rules name endpoints, not paths."""
    await client.inject({"action": "refuse", "endpoint": endpoint, "status": 418})
    assert (await client.start()).status_code == 200
    assert (await client.request(method, path)).status_code == 418


@pytest.mark.parametrize("match", [{"roomId": "r1"}, {"participantId": "p1"}, {"kind": "audio"}, {"endpoint": "stop"}])
async def test_fault_applies_only_to_matching_calls(client, match):
    """A call that differs in one named thing is left alone, and does not use the rule up."""
    await client.inject({"action": "refuse", "status": 418, **match})
    assert (await client.start()).status_code == 200
    first = {"roomId": "r1", "participantId": "p1", "kind": "audio"}
    answer = await (client.stop(**first) if "endpoint" in match else client.start(**first))
    assert answer.status_code == 418


async def test_fault_applies_its_number_of_times(client):
    """A number of times, or for ever; lifting them ends both."""
    await client.inject({"action": "refuse", "status": 418, "times": 2})
    assert [(await client.stop()).status_code for _ in range(3)] == [418, 418, 400]
    await client.inject({"action": "refuse", "status": 418, "times": None})
    assert [(await client.stop()).status_code for _ in range(3)] == [418, 418, 418]
    shown = (await client.get("/_control/faults")).json()
    assert shown == [{"action": "refuse", "status": 418, "times": None}]
    assert (await client.delete("/_control/faults")).json() == []
    assert (await client.stop()).status_code == 400


def test_fault_probability_repeats_with_its_seed():
    """With one seed the same calls are struck; about as many as the probability says."""
    subject = Subject("start", "r", "p", "audio")

    def draw(seed):
        faults = Faults(seed)
        faults.add([Fault(action="refuse", times=None, probability=0.3)])
        return [faults.plan(subject).fault is not None for _ in range(1000)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert 240 < sum(draw(7)) < 360


async def test_unauthorised_call_uses_no_rule_up(client, simulator):
    """A bad token is refused before any fault is considered."""
    await client.inject({"action": "refuse", "status": 418})
    assert (await client.get(TRACKS, headers={"authorization": "x"})).status_code == 401
    assert len(simulator.faults) == 1


async def test_many_calls_wait_at_once(client, simulator, mint):
    """Three hundred slow starts are in flight at one moment, over connections as plain as can be."""
    await client.inject({"action": "delay", "endpoint": "start", "seconds": 3, "times": None})
    address = simulator.url.removeprefix("http://")

    async def start(number):
        reader, writer = await asyncio.open_connection(*address.split(":"))
        body = f'{{"roomId":"r","participantId":"p{number}","kind":"audio"}}'
        head = f"POST {TRACKS}/start HTTP/1.1\r\nHost: {address}\r\nAuthorization: {mint()}\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    answers = await asyncio.gather(*(start(number) for number in range(300)))
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    received = [call.received for call in simulator.calls]
    answered = [call.answered for call in simulator.calls]
    assert max(received) < min(answered), "all were in flight at one moment"
    assert len(simulator.rows) == 300


async def test_stopping_ends_what_hangs_or_waits(running):
    """Nothing is left over: no task, no warning, and late effects never come."""
    async with running() as (simulator, client):
        await client.inject(
            {"action": "hang_before", "endpoint": "start", "kind": "audio"},
            {"action": "apply_late", "endpoint": "start", "kind": "video", "seconds": 60},
            {"action": "delay", "endpoint": "start", "kind": "screen_video", "seconds": 60},
        )
        kinds = ("audio", "video", "screen_video")
        calls = [asyncio.create_task(client.start(kind=kind)) for kind in kinds]
        await harness.eventually(simulator_has(simulator, 3))
        await simulator.stop()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, httpx.ReadError | httpx.RemoteProtocolError) for end in ends), (
            "broken off, not given up"
        )
        assert simulator.rows == []


async def test_it_runs_alone_and_tells_what_it_did():
    """The command prints its address, then a line for each call; times compare across processes; SIGTERM ends it."""
    secret, rule = "f00d" * 16, [{"action": "refuse", "endpoint": "stop", "status": 503}]
    command = ["-m", "gateway.sandbox.simulator", "--api-key", "k", "--secret", secret, "--faults", json.dumps(rule)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=pipe, stderr=pipe)
    try:
        assert process.stdout is not None
        url = json.loads(await process.stdout.readline())["url"]
        before = time.monotonic()
        token = _token("k", secret)
        async with httpx.AsyncClient(base_url=url, headers={"authorization": token}) as client:
            body = {"roomId": "r", "participantId": "p", "kind": "audio", "webhookUrl": "http://127.0.0.1:9/?key=hush"}
            assert (await client.post(f"{TRACKS}/start", json=body)).status_code == 200
            assert (await client.post(f"{TRACKS}/stop", json=body)).status_code == 503
            calls = (await client.get("/_control/calls")).json()
        assert before < calls[0]["received"] < time.monotonic()
        process.terminate()
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["endpoint"], line["status"], line["tookEffect"]) for line in lines] == [
        ("start", 200, True),
        ("stop", 503, False),
    ]
    assert (process.returncode, err) == (0, b"")
    assert token.encode() not in out
    assert b"hush" not in out


def _token(key, secret):
    import jwt

    claims = {"apikey": key, "permissions": ["allow_join"], "version": 2, "exp": int(time.time()) + 60}
    return jwt.encode(claims, secret, "HS256")
