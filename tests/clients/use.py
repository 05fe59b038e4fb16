"""Start, join, conflict, stop, a batch, the end of a room. Arguments: the gateway's address, a key, a room."""

import asyncio
import json
import sys

from recording_gateway_client import AuthenticatedClient  # pyright: ignore
from recording_gateway_client.api.recordings import (  # pyright: ignore
    get_track_recording,
    record_batch,
    start_track_recording,
    stop_all_recordings_of_room,
    stop_track_recording,
)
from recording_gateway_client.models import (  # pyright: ignore
    BatchItem,
    BatchItemAction,
    Kind,
    Mode,
    ProblemDocument,
    RecordBatch,
    StartTrackRecording,
    StopAllRecordings,
    StopTrackRecording,
    TrackRecording,
)


def said(answer):
    """Return an answer's status and what it says in short."""
    if isinstance(answer.parsed, ProblemDocument):
        return [answer.status_code, answer.parsed.type_, answer.parsed.fields]
    assert isinstance(answer.parsed, TrackRecording)
    return [answer.status_code, answer.parsed.outcome]


def said_in_batch(result):
    """Return which item a result is of, its status and what it says in short."""
    if result.recording:
        return [result.item, result.status, result.recording.outcome]
    return [result.item, result.status, [error.field for error in result.problem.errors]]


async def main(address, key, room):
    """Do it, and print what came of it."""
    track = {"room_id": room, "participant_id": "ada", "kind": Kind.VIDEO}
    async with AuthenticatedClient(base_url=address, token=key, raise_on_unexpected_status=True) as client:

        def start(**more):
            return start_track_recording.asyncio_detailed(client=client, body=StartTrackRecording(**track, **more))

        both = await asyncio.gather(start(), start())
        again = await start()
        conflict = await start(bucket_dir_path="elsewhere")
        seen = await get_track_recording.asyncio_detailed(client=client, **track)
        stopped = await stop_track_recording.asyncio_detailed(client=client, body=StopTrackRecording(**track))
        person = {"room_id": room, "participant_id": "ada"}
        start, stop = BatchItemAction.START, BatchItemAction.STOP
        items = [
            BatchItem(action=start, mode=Mode.TRACK, kinds=[Kind.AUDIO, Kind.VIDEO], **person),
            BatchItem(action=start, mode=Mode.PARTICIPANT, **person),
            BatchItem(action=stop, mode=Mode.TRACK, **person),
        ]
        batch = await record_batch.asyncio_detailed(client=client, body=RecordBatch(items=items))
        ended = await stop_all_recordings_of_room.asyncio(room, client=client, body=StopAllRecordings())
    report = {
        "started": sorted(map(said, both)),
        "ids": len({answer.parsed.id for answer in (*both, again)}),
        "again": said(again),
        "conflict": said(conflict),
        "seen": [seen.status_code, seen.parsed.status],
        "stopped": said(stopped),
        "batch": list(map(said_in_batch, batch.parsed.results)),
        "ended": [ended.complete, ended.foreign_left, [one.recording.status for one in ended.results]],
    }
    print(json.dumps(report))


asyncio.run(main(*sys.argv[1:]))
