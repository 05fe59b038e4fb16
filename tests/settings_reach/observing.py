"""How each setting is observed: what the gateway does with it, seen from outside."""

import asyncio
import json
import math
import time
import uuid
from collections.abc import Awaitable
from datetime import datetime
from typing import Any, cast

import httpx
from redis.asyncio import Redis

from gateway.app import create_client
from gateway.auth.api_keys import new_key
from gateway.sandbox.faults import Fault
from gateway.sandbox.identities import IdentityProvider, demo_join_token
from gateway.settings.load import load
from tests import harness
from tests.api_client import address
from tests.settings_reach.scene import Given, Scene, record_key

ISSUER = "https://id.example/"


async def passed(seconds: float) -> None:
    """Wait until a time that the gateway counts too is over."""
    over = time.monotonic() + seconds
    await harness.eventually(lambda: time.monotonic() > over)


# --- Redis and VideoSDK -----------------------------------------------------------------------------------------------


async def server_with_the_record(scene: Scene, given: Given) -> str:
    """Return the name of the Redis that a start leaves its record in."""
    track = scene.track()
    async with scene.serving(given) as gateway:
        assert (await gateway.start(track)).status_code == 201
    found: list[str] = []
    for name in ("this-server", "other-server"):
        async with Redis.from_url(await scene.fill(f"{{{name}}}"), decode_responses=True) as redis:
            found += [name] if await record_key(redis, track) else []
    return " and ".join(found)


async def readiness(scene: Scene, given: Given) -> int:
    """Return what /readyz says: whether Redis can be spoken to."""
    async with scene.serving(given) as gateway:
        return (await gateway.get("/readyz")).status_code


async def start_status(scene: Scene, given: Given) -> int:
    """Return the status of a start."""
    async with scene.serving(given) as gateway:
        return (await gateway.start(scene.track())).status_code


async def formats_of_a_participant(scene: Scene, given: Given) -> list[int]:
    """Return the statuses of starts of participants as webm, mp4 and m3u8."""
    statuses: list[int] = []
    async with scene.serving(given) as gateway:
        for form in ("webm", "mp4", "m3u8"):
            body = {name: value for name, value in scene.track().items() if name != "kind"}
            answer = await gateway.post("/v1/recordings/participant/start", json={**body, "fileFormat": form})
            statuses.append(answer.status_code)
    return statuses


async def start_that_is_refused_once(scene: Scene, given: Given) -> int:
    """Return the status of a start that VideoSDK refuses for a moment."""
    track = scene.track()
    scene.simulator.inject(Fault(action="refuse", endpoint="start", status=400, room_id=track["roomId"]))
    async with scene.serving(given) as gateway:
        return (await gateway.start(track)).status_code


async def account_that_was_asked(scene: Scene, given: Given) -> str:
    """Return the name of the VideoSDK that was sent a start."""
    before = scene.asked("start")
    async with scene.serving(given) as gateway:
        assert (await gateway.start(scene.track())).status_code == 201
    return "this-account" if scene.asked("start") > before else "other-account"


async def proxy_that_was_asked(scene: Scene, given: Given) -> str:
    """Return the name of the proxy that a start went through."""
    names = ("a-proxy", "another-proxy")
    for name in names:
        await scene.fill(f"{{{name}}}")
    before = {name: len(scene.kept(name).heads) for name in names}
    assert await start_status(scene, given) == 201
    return " and ".join(name for name in names if len(scene.kept(name).heads) > before[name])


async def webhook_of_a_start(scene: Scene, given: Given) -> str | None:
    """Return the address for webhooks that a start without one of its own takes along."""
    async with scene.serving(given) as gateway:
        await gateway.start(scene.track())
    return next(call for call in reversed(scene.simulator.calls) if call.endpoint == "start").body.get("webhookUrl")


async def webhook_verdict(scene: Scene, given: Given) -> int:
    """Return what a webhook that VideoSDK signed is answered."""
    body = b'{"webhookType":"session-started","data":{"meetingId":"room","sessionId":"s"}}'
    async with scene.serving(given) as gateway:
        headers = {"videosdk-signature": scene.simulator.sign(body)}
        return (await gateway.post("/v1/webhooks/videosdk", content=body, headers=headers)).status_code


async def start_that_takes_a_while(scene: Scene, given: Given) -> bool:
    """Return whether a start that VideoSDK answers after 0.3 s is waited for."""
    scene.simulator.inject(harness.delay("start", 0.3))
    return await start_status(scene, given) == 201


async def calls_side_by_side(scene: Scene, given: Given) -> int:
    """Return how many of three starts VideoSDK has before it answers the first."""
    upstream, tracks = await scene.upstream(), [scene.track() for _ in range(3)]
    async with scene.serving({**given, "GATEWAY_VIDEOSDK_URL": upstream.server.url}) as gateway:
        callers = [asyncio.create_task(gateway.start(track)) for track in tracks]
        for track in tracks:
            await harness.until(lambda track=track: scene.record(track, "granted"), timeout=30)
        allowed = int(given["GATEWAY_UPSTREAM_CONCURRENCY"] or 0)
        await harness.eventually(lambda: upstream.in_flight >= min(allowed, 3))
        await passed(0.1)  # in which one that should wait would be seen
        peak = upstream.peak
        upstream.released.set()
        await asyncio.gather(*callers)
    return peak


async def second_call_at_once(scene: Scene, given: Given) -> bool:
    """Return whether a call follows another without waiting for its turn."""
    settings = await scene.environment(given)
    limited = create_client(load(settings))
    unlimited = create_client(load({**settings, "GATEWAY_UPSTREAM_CALLS_PER_SECOND": "0"}))
    await limited.check()
    second = asyncio.create_task(limited.check())
    for _ in range(20):  # each takes as long as the second would, on whatever machine
        await unlimited.check()
    done = second.done()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await limited.aclose()
    await unlimited.aclose()
    return done


# --- the protocol's times ---------------------------------------------------------------------------------------------


async def sent_under_its_first_claim(scene: Scene, given: Given) -> bool:
    """Return whether a start that had to wait for its connection is sent under the claim it waited with."""
    upstream, first, second = await scene.upstream(), scene.track(), scene.track()
    async with scene.serving({**given, "GATEWAY_VIDEOSDK_URL": upstream.server.url}) as gateway:
        callers = [asyncio.create_task(gateway.start(first))]
        await harness.eventually(lambda: upstream.starts)
        callers.append(asyncio.create_task(gateway.start(second)))
        holder = await harness.until(lambda: holder_of(scene, second))
        await passed(0.1)
        upstream.released.set()
        await asyncio.gather(*callers)
    return upstream.starts[1].headers["x-rec-attempt"] == holder


async def holder_of(scene: Scene, track: dict[str, str]) -> str | None:
    """Return the attempt that holds a track."""
    async with Redis.from_url(scene.valkey.url, decode_responses=True) as redis:
        key = await record_key(redis, track)
        return await cast("Awaitable[str | None]", redis.hget(key, "holder")) if key else None


async def horizon_of_an_unknown_start(scene: Scene, given: Given) -> float | None:
    """Return for how many seconds a start without an answer is counted as one that may land."""
    track = scene.track()
    scene.simulator.inject(Fault(action="reset_before", endpoint="start"))
    async with scene.serving(given) as gateway:
        assert (await gateway.start(track)).status_code == 504
        numbers = await scene.record(track, "started_at", "start_may_land_until")
    return (numbers[1] - numbers[0]) / 1000 if numbers else None


async def lease_of_a_start(scene: Scene, given: Given) -> float | None:
    """Return for how many seconds the claim of a start in flight is granted."""
    upstream, track = await scene.upstream(), scene.track()
    async with scene.serving({**given, "GATEWAY_VIDEOSDK_URL": upstream.server.url}) as gateway:
        caller = asyncio.create_task(gateway.start(track))
        await harness.eventually(lambda: upstream.starts)
        numbers = await scene.record(track, "granted", "lease")
        upstream.released.set()
        await caller
    return (numbers[1] - numbers[0]) / 1000 if numbers else None


async def repeat_asks_videosdk(scene: Scene, given: Given) -> bool:
    """Return whether a start right after another looks at VideoSDK's list."""
    track = scene.track()
    async with scene.serving(given) as gateway:
        await gateway.start(track)
        before = scene.asked("list")
        assert (await gateway.start(track)).json()["outcome"] == "already_recording"
        return scene.asked("list") > before


async def start_asks_first(scene: Scene, given: Given) -> bool:
    """Return whether the very first start of a track looks at VideoSDK's list before it is sent."""
    track = scene.track()
    async with scene.serving(given) as gateway:
        assert (await gateway.start(track)).json()["outcome"] == "started"
    return any(call.endpoint == "list" and call.room_id == track["roomId"] for call in scene.simulator.calls)


async def looked_after_unasked(scene: Scene, given: Given) -> bool:
    """Return whether a recording that runs is compared with VideoSDK's list although no caller asks."""
    track = scene.track()
    async with scene.serving(given) as gateway:
        assert (await gateway.start(track)).status_code == 201
        before = scene.asked("list")
        async with Redis.from_url(scene.valkey.url, decode_responses=True) as redis:
            key = await record_key(redis, track)
            assert key
            if await redis.zscore(due_of(key), key) is None:
                return False
        await harness.eventually(lambda: scene.asked("list") > before)
    return True


async def rooms_compared_in_a_moment(scene: Scene, given: Given) -> int:
    """Return how many of two rooms are compared when both are due at the same moment."""
    tracks = [scene.track() for _ in range(2)]
    rooms = {track["roomId"] for track in tracks}
    server = await scene.fill(given["GATEWAY_REDIS_URL"] or "")

    def compared() -> set[str | None]:
        return {call.room_id for call in scene.simulator.calls if call.endpoint == "list" and call.room_id in rooms}

    async with scene.serving(given) as gateway, Redis.from_url(server, decode_responses=True) as redis:
        for track in tracks:
            assert (await gateway.start(track)).status_code == 201
        async with redis.pipeline(transaction=True) as both:
            for track in tracks:
                key = await record_key(redis, track) or ""
                both.zadd(due_of(key), {key: 1})
            await both.execute()
        await harness.eventually(compared)
        if given["GATEWAY_CHECKS_PER_SECOND"] == "0":
            await harness.eventually(lambda: compared() == rooms)
        else:
            await passed(0.2)  # in which one that should wait would be seen
    return len(compared())


def due_of(key: str) -> str:
    """Return where Redis holds when a record is due."""
    return f"{':'.join(key.split(':')[:3])}:due"


async def hours_that_an_end_is_kept(scene: Scene, given: Given) -> float:
    """Return for how many hours Redis keeps the record of a recording that was stopped."""
    track = scene.track()
    async with scene.serving(given) as gateway:
        await gateway.start(track)
        assert (await gateway.stop(track)).json()["outcome"] == "stopped"
    async with Redis.from_url(scene.valkey.url, decode_responses=True) as redis:
        return round(await redis.pttl(await record_key(redis, track) or "") / 3_600_000, 1)


async def seconds_that_a_start_may_last(scene: Scene, given: Given) -> float | None:
    """Return how many seconds after its start the gateway stops a recording; None is never."""
    async with scene.serving(given) as gateway:
        started = (await gateway.start(scene.track())).json()
    moments = [started[name] and datetime.fromisoformat(started[name]) for name in ("requestedAt", "stopsAt")]
    return (moments[1] - moments[0]).total_seconds() if moments[1] else None


async def deadline_strikes(scene: Scene, given: Given) -> bool:
    """Return whether a caller is answered after 0.3 s that its time is over, while VideoSDK's list cannot be had."""
    scene.simulator.inject(Fault(action="error", endpoint="list", times=None))
    before = scene.asked("list")
    async with scene.serving(given) as gateway:
        caller = asyncio.create_task(gateway.start(scene.track()))
        await harness.eventually(lambda: scene.asked("list") > before)
        await passed(0.35)
        scene.simulator.clear_faults()
        return (await caller).json().get("type") == "/problems/deadline-exceeded"


async def kept_answers(scene: Scene, given: Given, starts: int) -> list[tuple[float, int]]:
    """Return for how many hours Redis keeps what it remembers under a new caller's keys, and how many there are.

    Args:
        scene: Where.
        given: Settings.
        starts: How many starts the caller sends, each under a key of its own.
    """

    async def keys() -> dict[str, tuple[float, int]]:
        async with Redis.from_url(scene.valkey.url, decode_responses=True) as redis:
            names = [name async for name in redis.scan_iter(match="rec:*:answered:*", count=1000)]
            return {name: (math.ceil(await redis.pttl(name) / 36_000) / 100, await redis.zcard(name)) for name in names}

    key, entry = new_key(f"keyed-{uuid.uuid4().hex[:8]}")
    file = scene.folder / "keyed.toml"
    file.write_text(entry)
    before = await keys()
    async with scene.serving({**given, "GATEWAY_CALLERS_FILE": str(file)}, key) as gateway:
        for _ in range(starts):
            await gateway.start(scene.track(), headers={"idempotency-key": uuid.uuid4().hex})
    return [seen for name, seen in (await keys()).items() if name not in before]


async def hours_that_an_answer_is_kept(scene: Scene, given: Given) -> list[float]:
    """Return for how many hours Redis keeps the answer to a start with a key."""
    return [hours for hours, _ in await kept_answers(scene, given, 1)]


async def keys_that_are_remembered(scene: Scene, given: Given) -> list[int]:
    """Return how many keys are remembered of a caller that has sent three."""
    return [count for _, count in await kept_answers(scene, given, 3)]


# --- who may ask, and how often ---------------------------------------------------------------------------------------


async def answer_to_a_stranger(scene: Scene, given: Given) -> int:
    """Return what a caller without a key is answered that asks for a track."""
    async with scene.serving(given, key="") as gateway:
        return (await gateway.show(scene.track())).status_code


async def answer_to_the_demo_caller(scene: Scene, given: Given) -> int:
    """Return what the demo caller is answered that asks for a track."""
    async with scene.serving(given) as gateway:
        return (await gateway.show(scene.track())).status_code


async def answers_to_join_tokens(scene: Scene, given: Given) -> list[int]:
    """Return what a participant is answered whose token names the room, and one whose token names none."""
    track = scene.track()
    async with scene.serving(given, key="") as gateway:
        answers: list[int] = []
        for room in (track["roomId"], None):
            token = demo_join_token(harness.API_KEY, harness.SECRET, room=room, participant=track["participantId"])
            answer = await gateway.get(address(track), headers={"authorization": f"Bearer {token}"})
            answers.append(answer.status_code)
    return answers


async def company_start(scene: Scene, given: Given) -> httpx.Response:
    """Return the answer to a person of the company who starts a track."""
    settings = await scene.environment(given)
    del settings["GATEWAY_CALLERS_FILE"]
    await scene.fill("{keys-of-the-provider}")
    provider = cast("IdentityProvider", scene.kept("provider"))
    said: dict[str, Any] = {"iss": ISSUER, "email": "ada@example.com", "permissions": ["recordings:read"]}
    token = provider.token("ada", rooms=["another-room"], **said)
    async with harness.serve(settings) as url, harness.client(url, token) as gateway:
        return await gateway.start(scene.track())


async def company_status(scene: Scene, given: Given) -> int:
    """Return the status of that answer."""
    return (await company_start(scene, given)).status_code


async def company_name(scene: Scene, given: Given) -> str:
    """Return whom a recording names that a person of the company started."""
    return (await company_start(scene, given)).json()["requestedBy"]


async def page_that_may_read(scene: Scene, given: Given) -> list[str | None]:
    """Return which of two pages' origins an answer allows."""
    async with scene.serving(given) as gateway:
        answers = [
            await gateway.get("/livez", headers={"origin": f"https://{name}.example"}) for name in ("one", "other")
        ]
    return [answer.headers.get("access-control-allow-origin") for answer in answers]


async def starts_of_one_caller(scene: Scene, given: Given) -> list[int]:
    """Return what two starts of different tracks are answered, of a new caller without a limit of its own."""
    key, entry = new_key(f"limited-{uuid.uuid4().hex[:8]}")
    file = scene.folder / "limited.toml"
    file.write_text(entry)
    async with scene.serving({**given, "GATEWAY_CALLERS_FILE": str(file)}, key) as gateway:
        return [(await gateway.start(scene.track())).status_code for _ in range(2)]


async def questions_of_one_caller(scene: Scene, given: Given) -> list[int]:
    """Return what two reads of made-up rooms are answered, of a new caller: a list of each mode for each."""
    key, entry = new_key(f"asking-{uuid.uuid4().hex[:8]}")
    file = scene.folder / "asking.toml"
    file.write_text(entry)
    async with scene.serving({**given, "GATEWAY_CALLERS_FILE": str(file)}, key) as gateway:
        return [(await gateway.list(scene.track()["roomId"])).status_code for _ in range(2)]


async def lists_side_by_side(scene: Scene, given: Given) -> int:
    """Return how many lists for reads are on their way at once while VideoSDK answers none."""
    rooms = [scene.track()["roomId"] for _ in range(4)]
    lists = ("list", "participant-list", "room-list")
    scene.simulator.inject(*(Fault(action="hang_before", endpoint=name, times=None) for name in lists))
    async with scene.serving(given) as gateway:
        # Each read is answered without its list after a moment.
        answers = await asyncio.gather(*(gateway.list(room) for room in rooms))
        assert {answer.status_code for answer in answers} == {200}
        # The gateway also looks after what other tests left behind.
        seen = sum(call.room_id in rooms for call in scene.simulator.calls)
    scene.simulator.clear_faults()
    return seen


async def starts_of_one_track(scene: Scene, given: Given) -> list[int]:
    """Return what three real starts of one track are answered."""
    track, answers = scene.track(), list[int]()
    async with scene.serving(given) as gateway:
        for _ in range(3):
            answers.append((await gateway.start(track)).status_code)
            assert (await gateway.stop(track)).status_code == 200
    return answers


async def tickets_of_one_caller(scene: Scene, given: Given) -> list[int]:
    """Return what two tickets are answered, of a new caller."""
    key, entry = new_key(f"limited-{uuid.uuid4().hex[:8]}")
    file = scene.folder / "limited.toml"
    file.write_text(entry)
    path = f"/v1/rooms/{scene.track()['roomId']}/events/tickets"
    async with scene.serving({**given, "GATEWAY_CALLERS_FILE": str(file)}, key) as gateway:
        return [(await gateway.post(path)).status_code for _ in range(2)]


async def start_while_another_waits(scene: Scene, given: Given) -> int:
    """Return what a start is answered while another of the same caller waits for VideoSDK."""
    upstream = await scene.upstream()
    async with scene.serving({**given, "GATEWAY_VIDEOSDK_URL": upstream.server.url}) as gateway:
        first = asyncio.create_task(gateway.start(scene.track()))
        await harness.eventually(lambda: upstream.in_flight)
        second = asyncio.create_task(gateway.start(scene.track()))
        await harness.eventually(lambda: upstream.in_flight == 2 or second.done())
        upstream.released.set()
        assert (await first).status_code == 201
        return (await second).status_code


async def webhook_while_another_waits(scene: Scene, given: Given) -> int:
    """Return what a webhook is answered while another is acted on, from the same address."""
    upstream, answers = await scene.upstream("GET"), list[int]()
    key = await scene.fill("{key-file}")
    more = {"GATEWAY_VIDEOSDK_URL": upstream.server.url, "GATEWAY_VIDEOSDK_WEBHOOK_KEY_FILE": key}
    async with scene.serving({**given, **more}) as gateway:
        for _ in range(2):
            track = scene.track()
            data = {"meetingId": track["roomId"], "participantId": track["participantId"], "kind": track["kind"]}
            body = json.dumps({"webhookType": "participant-track-recording-started", "data": data}).encode()
            headers = {"videosdk-signature": scene.simulator.sign(body)}
            answer = await gateway.post("/v1/webhooks/videosdk", content=body, headers=headers)
            answers.append(answer.status_code)
        upstream.released.set()
    assert answers[0] == 204
    return answers[1]


async def second_reader(scene: Scene, given: Given) -> int:
    """Return what a second reader of live events is answered while the first one reads."""
    path = f"/v1/rooms/{scene.track()['roomId']}/events"
    async with scene.serving(given) as gateway, gateway.stream("GET", path) as first:
        assert first.status_code == 200
        async with gateway.stream("GET", path) as second:
            return second.status_code
