"""How a recording is known to have ended, and why: by a report of its files, by its row, by nothing but its absence."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import msgspec
import pytest

from gateway.coordinator import Record
from gateway.recordings import Kind, Mode, Target, recording_of
from gateway.recordings.evidence import Evidence, proof_of_end
from gateway.recordings.model import RecordedFile
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import ApiClient, NewTrack, Track

pytestmark = pytest.mark.anyio

SLOW = {
    **harness.CALM,
    "GATEWAY_SETTLE_SECONDS": "200",
    "GATEWAY_VERIFY_ABSENT": "never",
    "GATEWAY_CHECK_SECONDS": "60",
    "GATEWAY_REQUEST_DEADLINE_SECONDS": "300",
}
"""The list may be behind for longer than any test waits."""
BLIND = Fault(action="empty_once", endpoint="list", times=None)
"""No list shows anything."""


@asynccontextmanager
async def serving(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, times: dict[str, str]
) -> AsyncGenerator[ApiClient]:
    """Serve a gateway that VideoSDK reports to."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **times)
    async with harness.serve(settings, public=True) as url, harness.client(url, demo.key) as gateway:
        yield gateway


def end(simulator: Simulator, track: Track, *, webhook: bool = True) -> None:
    """Have VideoSDK end a recording."""
    assert simulator.end_recording(track["roomId"], track["participantId"], track["kind"], webhook=webhook) == 1


async def ended(gateway: ApiClient, track: Track) -> httpx.Response:
    """Wait until the gateway knows that it is over."""
    return await harness.until(
        lambda: gateway.show(track), lambda answer: answer.json().get("status") in {"stopped", "failed"}
    )


@pytest.mark.parametrize("answered", [True, False])
async def test_webhook_with_files_proves_a_recording_that_no_list_has_shown(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack, answered: bool
) -> None:
    """VideoSDK reports the end and the files, and its list stays empty: it was a recording, and these are its files."""
    track = new_track()
    async with serving(valkey, simulator, demo, harness.FAST) as gateway:
        simulator.inject(BLIND, *([] if answered else [Fault(action="reset_after", endpoint="start")]))
        assert (await gateway.start(track)).status_code == (201 if answered else 504)
        end(simulator, track)
        told = (await ended(gateway, track)).json()
        assert told["status"] == "stopped"
        assert [file["filePath"] for file in told["files"]] == [simulator.rows[0].file_path]
        assert told["endedBecause"] == "videosdk"


async def test_webhook_with_files_after_the_end_proves_that_it_had_begun(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The list denied it and it was taken for failed; the report comes late: stopped, with its files."""
    track = new_track()
    async with serving(valkey, simulator, demo, {**harness.FAST, "GATEWAY_TRUST_SECONDS": "0"}) as gateway:
        simulator.inject(BLIND, Fault(action="webhook_late", seconds=6, times=None))
        assert (await gateway.start(track)).status_code == 201
        end(simulator, track)
        await harness.until(lambda: gateway.show(track), lambda answer: answer.json().get("status") == "failed")
        told = await harness.until(lambda: gateway.show(track), lambda answer: answer.json()["status"] == "stopped")
        assert len(told.json()["files"]) == 1


async def test_webhook_about_an_earlier_recording_proves_nothing(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """A replay, signed and with files, reaches the next recording of the track: those are not shown as its files."""
    track = new_track()
    async with serving(valkey, simulator, demo, harness.FAST) as gateway:
        await gateway.start(track)
        await gateway.stop(track)
        data = {
            "meetingId": track["roomId"], "sessionId": "s", "participantId": track["participantId"], "kind": "video",
            "fileDetails": [{"filePath": simulator.rows[0].file_path, "fileUrl": simulator.rows[0].file_url}],
        }  # fmt: skip
        body = msgspec.json.encode({"webhookType": "participant-track-recording-stopped", "data": data})
        simulator.inject(BLIND)
        second = await gateway.start(track)
        assert second.status_code == 201, second.text
        sent = await gateway.post(
            "/v1/webhooks/videosdk", content=body, headers={"videosdk-signature": simulator.sign(body)}
        )
        assert sent.status_code == 204
        told = (await ended(gateway, track)).json()
        assert (told["id"], told["status"], told["files"]) == (second.json()["id"], "failed", [])


async def test_closed_row_that_began_with_the_start_ends_it_at_once(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """It ends in its first seconds, and its row shows that: the list need not have had time for what it shows."""
    track = new_track()
    async with serving(valkey, simulator, demo, SLOW) as gateway:
        assert (await gateway.start(track)).status_code == 201
        end(simulator, track)
        told = (await ended(gateway, track)).json()
        assert (told["status"], told["endedBecause"], len(told["files"])) == ("stopped", "videosdk", 1)


async def test_end_that_no_webhook_tells_of_is_videosdks(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """The list shows that it ended, and no caller asked for a stop."""
    track = new_track()
    async with serving(valkey, simulator, demo, {**harness.FAST, "GATEWAY_CHECK_SECONDS": "1"}) as gateway:
        assert (await gateway.start(track)).status_code == 201
        end(simulator, track, webhook=False)
        assert (await ended(gateway, track)).json()["endedBecause"] == "videosdk"


@pytest.mark.parametrize(
    ("because", "seconds", "told"),
    [
        ("", 600, "videosdk"),
        ("ended", 600, "videosdk"),
        ("", 7201, "duration_limit"),
        ("ended", 7199, "duration_limit"),
        ("", 7209, "duration_limit"),
        ("", 7189, "videosdk"),
        ("", 7211, "videosdk"),
        ("stopped", 7200, "stopped"),
        ("max_duration", 7200, "max_duration"),
        ("participant_left", 7200, "participant_left"),
        ("", None, None),
        ("ended", None, "videosdk"),
    ],
)
def test_end_reason_is_told_where_it_is_known(because: str, seconds: int | None, told: str | None) -> None:
    """What was asked for or reported comes first; then how long its row says that it ran."""
    began = datetime(2027, 1, 15, 8, tzinfo=UTC)
    evidence = ""
    if seconds is not None:
        closed = (began + timedelta(seconds=seconds)).isoformat()
        evidence = Evidence(generation="7", ended=True, start=began.isoformat(), end=closed).encode()
    record = Record(state="stopped", generation="7", because=because, evidence=evidence)
    recording = recording_of("rec", Target(Mode.TRACK, "room", "ada", Kind.VIDEO), record)
    assert recording.ended_because == told


BEGIN = 1_800_000_000_000


@pytest.mark.parametrize(
    ("names", "ended_at", "proves"),
    [
        ([BEGIN + 300], 0, True),
        ([BEGIN + 300, BEGIN + 90_000], 0, True),
        ([BEGIN - 5_000], 0, False),
        ([BEGIN - 500], BEGIN - 100, False),
        ([BEGIN + 300], BEGIN - 100, True),
        ([BEGIN + 300, BEGIN - 5_000], 0, False),
        ([BEGIN + 90_000], BEGIN + 60_000, False),
        (["62d148951a1eb20029fc9b05"], 0, False),
        ([], 0, False),
    ],
)
def test_files_prove_an_end_only_where_their_names_fit(names: list[object], ended_at: int, proves: bool) -> None:
    """Each file began with the recording or later, and after the one before had ended."""
    files = [RecordedFile(file_path=f"a/track_recording_ada_video_{name}.webm") for name in names]
    assert (proof_of_end("", "7", files, BEGIN, ended_at) is not None) == proves
    assert proof_of_end("", "7", files, 0, ended_at) is None
    known = Evidence(generation="6", files=tuple(files)).encode()
    assert proof_of_end(known, "7", files, BEGIN, ended_at) is None
    listed = Evidence(generation="7", videosdk_id="row").encode()
    assert proof_of_end(listed, "7", files, BEGIN, ended_at) is None
