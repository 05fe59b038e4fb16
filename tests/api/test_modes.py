"""What a mode's row says and what the API does agree, for every mode; and no ids are made up where a mode has none."""

import msgspec
import pytest

from gateway.api.openapi import contract
from gateway.api.pagination import RecordingsQuery
from gateway.api.wire import BODIES, PATH_PARTS, RecordingBody
from gateway.recordings import MODES, Kind, Mode, Recording, Status, Target

MODE_BY_MODE = pytest.mark.parametrize("mode", Mode)


def recording(target: Target) -> Recording:
    """Return a recording of this target."""
    return Recording(
        id="rec_x",
        target=target,
        file_format="webm",
        status=Status.RECORDING,
        requested_by=None,
        requested_at=None,
        confirmed_at=None,
        confirmed_by=None,
    )


def names(body: type[msgspec.Struct]) -> dict[str, str]:
    """Return a body's fields: VideoSDK's name, and ours."""
    return {field.encode_name: field.name for field in msgspec.structs.fields(body)}


@MODE_BY_MODE
def test_bodies_of_a_mode_have_its_ids_and_parameters(mode: Mode) -> None:
    """A stop takes the ids of the mode's row, a start its parameters too, and the ids are what must be there."""
    spec, bodies = MODES[mode], BODIES[mode]
    assert names(bodies.stop) == spec.ids
    # Its parameters bear VideoSDK's names, but the folder bears one name in all modes.
    given = {"bucketDirPath" if name == "awsDirPath" else name: ours for name, ours in spec.parameters.items()}
    assert names(bodies.start) == {**spec.ids, **given, "maxDurationSeconds": "max_duration_seconds"}
    for body in bodies:
        required = {field.encode_name for field in msgspec.structs.fields(body) if field.required}
        assert required == spec.ids.keys()


@MODE_BY_MODE
def test_contract_shows_a_modes_recordings_with_its_ids_and_no_others(mode: Mode) -> None:
    """Every answer about one recording of the mode is of the mode's own schema."""
    document, own = contract(), f"{mode.capitalize()}Recording"
    schema = document["components"]["schemas"][own]
    assert schema["properties"].keys() & PATH_PARTS.keys() == MODES[mode].ids.keys()
    assert set(schema["required"]) == schema["properties"].keys()
    for path, status in ((f"/v1/recordings/{mode}/start", "201"), (f"/v1/recordings/{mode}/stop", "200")):
        (content,) = document["paths"][path]["post"]["responses"][status]["content"].values()
        assert content["schema"] == {"$ref": f"#/components/schemas/{own}"}


def test_body_of_a_recording_leaves_out_ids_that_its_target_has_not() -> None:
    """Neither null nor empty: the field is not there."""
    room = msgspec.to_builtins(RecordingBody.of(recording(Target(Mode.TRACK, "room"))))
    assert room.keys() & PATH_PARTS.keys() == {"roomId"}
    participant = msgspec.to_builtins(RecordingBody.of(recording(Target(Mode.TRACK, "room", "ada"))))
    assert participant.keys() & PATH_PARTS.keys() == {"roomId", "participantId"}


def test_list_holds_targets_without_kind_and_participant() -> None:
    """They come first, and a filter by what they do not have leaves them out."""
    targets = [
        Target(Mode.TRACK, "room", "ada", Kind.VIDEO),
        Target(Mode.TRACK, "room", "ada"),
        Target(Mode.TRACK, "room"),
    ]

    def listed(**query: str) -> list[Target]:
        page = RecordingsQuery.read({"roomId": "room", **query}.items()).page(map(recording, targets))
        return [Target(Mode.TRACK, one.room_id, one.participant_id or "", one.kind or None) for one in page.recordings]

    assert listed() == targets[::-1]
    assert listed(participantId="ada") == [targets[1], targets[0]]
    assert listed(kind="video") == [targets[0]]
