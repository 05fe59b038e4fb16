"""Start, join, conflict, stop with a generated client. Arguments: the gateway's address, a key, a room."""

import asyncio
import json
import sys

from recording_gateway_client import AuthenticatedClient  # pyright: ignore
from recording_gateway_client.api.recordings import (  # pyright: ignore
    get_track_recording,
    start_track_recording,
    stop_track_recording,
)
from recording_gateway_client.models import (  # pyright: ignore
    Kind,
    ProblemDocument,
    StartTrackRecording,
    StopTrackRecording,
    TrackRecording,
)


def said(answer):
    """Return an answer's status and what it says in short."""
    if isinstance(answer.parsed, ProblemDocument):
        return [answer.status_code, answer.parsed.type_, answer.parsed.fields]
    assert isinstance(answer.parsed, TrackRecording)
    return [answer.status_code, answer.parsed.outcome]


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
    report = {
        "started": sorted(map(said, both)),
        "ids": len({answer.parsed.id for answer in (*both, again)}),
        "again": said(again),
        "conflict": said(conflict),
        "seen": [seen.status_code, seen.parsed.status],
        "stopped": said(stopped),
    }
    print(json.dumps(report))


asyncio.run(main(*sys.argv[1:]))
