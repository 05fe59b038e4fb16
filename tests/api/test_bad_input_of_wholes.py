"""What is wrong with a command about a participant or a room is said as for a track, at once, and nothing is sent."""

from typing import Any, cast

import pytest

from tests.api.test_bad_input import (
    BAD_URL,
    JSON,
    WRONG_VALUES,
    CheckProblem,
    NothingReaches,
    demo,
    fields,
    gateway,
    simulator,
    valkey,
)
from tests.api_client import ApiClient

__all__ = ["demo", "gateway", "simulator", "valkey"]

pytestmark = pytest.mark.anyio

ROOM = {"roomId": "abcd-efgh-ijkl"}
PARTICIPANT = {**ROOM, "participantId": "p_1"}
PARTICIPANTS, ROOMS = "/v1/recordings/participant", "/v1/recordings/room"

GRID = {"type": "GRID"}

VALUES: dict[str, list[Any]] = {}
"""The wrong values of each field of a track."""
for case in WRONG_VALUES:
    for name, value in cast("dict[str, Any]", case.values[0]).items():
        VALUES.setdefault(name, []).append(value)
PAGES = [*BAD_URL.values(), "http://app.example.com/", "HTTP://app.example.com/"]


@pytest.mark.parametrize(
    ("path", "body", "field", "values"),
    [
        *(
            pytest.param(f"{PARTICIPANTS}/start", PARTICIPANT, field, VALUES[field], id=f"participant {field}")
            for field in ("roomId", "participantId", "fileFormat", "webhookUrl", "bucketDirPath")
        ),
        *(
            pytest.param(f"{ROOMS}/start", ROOM, field, VALUES[field], id=f"room {field}")
            for field in ("roomId", "webhookUrl", "bucketDirPath")
        ),
        pytest.param(f"{ROOMS}/start", ROOM, "templateUrl", PAGES, id="room templateUrl"),
    ],
)
async def test_start_of_a_whole_with_a_wrong_field_names_it_and_sends_nothing(
    gateway: ApiClient,
    nothing_reaches: NothingReaches,
    check_problem: CheckProblem,
    path: str,
    body: dict[str, Any],
    field: str,
    values: list[Any],
) -> None:
    """Each field is checked as strictly as a track's, and a page must be https."""
    async with nothing_reaches():
        for value in values:
            if value is None and field not in ROOM | PARTICIPANT:
                continue
            answer = await gateway.post(path, json={**body, field: value})
            assert fields(check_problem(answer, "invalid-request")) == [field], value


WRONG_OBJECTS: list[tuple[dict[str, Any], list[str]]] = [
    # An object is an object, and says something.
    *(({"config": value}, ["config"]) for value in ("GRID", 7, True, [], [{"layout": GRID}])),
    ({"config": {}}, ["config.layout"]),
    ({"config": {"theme": "DARK"}}, ["config.layout"]),
    *(({"config": {"layout": value}}, ["config.layout"]) for value in ("GRID", None, 1, [GRID])),
    ({"config": {"layout": {}}}, ["config.layout.type"]),
    ({"config": {"layout": {"priority": "PIN"}}}, ["config.layout.type"]),
    # Every member, with what it cannot be.
    *(
        ({"config": {"layout": {**GRID, name: value}}}, [f"config.layout.{name}"])
        for name, values in {
            "type": ("grid", "CUSTOM", "", None, 1, ["GRID"], {}),
            "priority": ("speaker", "", None, 0, ["PIN"]),
            "gridSize": (0, 26, -1, 0.0, 26.0, 4.5, 1e300, "4", True, None, [4], 10**30),
            "gridsize": (4,),
            "custom": ("https://a.example",),
            "": (1,),
        }.items()
        for value in values
    ),
    *(
        ({"config": {"layout": GRID, name: value}}, [f"config.{name}"])
        for name, values in {
            "theme": ("dark", "", None, True, {}),
            "mode": ("video", "audio-only", None, 0, []),
            "quality": ("medium", "HIGH", None, 1080),
            "orientation": ("LANDSCAPE", None, 90, ["portrait"]),
            "gridSize": (4,),
            "templateUrl": ("https://a.example",),
        }.items()
        for value in values
    ),
    *(({"transcription": value}, ["transcription"]) for value in (True, "on", 1, [])),
    ({"transcription": {}}, ["transcription.enabled"]),
    *(({"transcription": {"enabled": value}}, ["transcription.enabled"]) for value in ("true", 1, None, {})),
    ({"transcription": {"enabled": True, "language": "de"}}, ["transcription.language"]),
    *(
        ({"transcription": {"enabled": True, "summary": value}}, ["transcription.summary"])
        for value in (True, None, "x")
    ),
    ({"transcription": {"enabled": True, "summary": {"prompt": "x"}}}, ["transcription.summary.enabled"]),
    *(
        (
            {"transcription": {"enabled": True, "summary": {"enabled": True, "prompt": value}}},
            ["transcription.summary.prompt"],
        )
        for value in ("", "x" * 4097, "\0", "a\x1bb", None, 1, ["x"])
    ),
    (
        {"transcription": {"enabled": True, "summary": {"enabled": True, "model": "x"}}},
        ["transcription.summary.model"],
    ),
    # All of them at once, beside the other fields.
    (
        {
            "roomId": "a/b",
            "config": {"layout": {"type": "X", "foo": {"bar": 1}}, "theme": 1, "x": 1},
            "transcription": {"enabled": 0, "summary": {"enabled": 0}},
            "templateUrl": "http://a.example",
            "preSignedUrl": "https://a.example",
        },
        [
            *("config.layout.foo", "config.layout.type", "config.theme", "config.x", "preSignedUrl", "roomId"),
            *("templateUrl", "transcription.enabled", "transcription.summary.enabled"),
        ],
    ),
]


async def test_room_start_with_a_wrong_object_names_its_members_and_sends_nothing(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem
) -> None:
    """What is not documented, or of another form, is refused by its path, without its value."""
    async with nothing_reaches():
        for wrong, named in WRONG_OBJECTS:
            document = check_problem(await gateway.post(f"{ROOMS}/start", json={**ROOM, **wrong}), "invalid-request")
            assert fields(document) == named, wrong
            assert all(len(error["message"]) < 60 for error in document["errors"])


async def test_room_start_with_thousands_of_unknown_members_gets_a_bounded_answer(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem
) -> None:
    """Within an object too, and a name as long as the body is cut."""
    many = {"layout": {**GRID, **{str(number): 0 for number in range(5000)}}}
    async with nothing_reaches():
        first = await gateway.post(f"{ROOMS}/start", json={**ROOM, "config": many})
        long = await gateway.post(f"{ROOMS}/start", json={**ROOM, "config": {"layout": GRID, "x" * 60_000: 0}})
        deep = await gateway.post(
            f"{ROOMS}/start", content=b'{"roomId":"r","config":' + b'{"layout":' * 5_000, headers=JSON
        )
    check_problem(first, "invalid-request")
    check_problem(long, "invalid-request")
    check_problem(deep, "malformed-request")
    assert len(first.content) < 16_000
    assert len(long.content) < 1_000


WHOLES = ((PARTICIPANTS, PARTICIPANT), (ROOMS, ROOM))
OTHER_FORMS: list[tuple[str, dict[str, Any], list[str]]] = [
    (f"{PARTICIPANTS}/start", {}, ["participantId", "roomId"]),
    (f"{PARTICIPANTS}/stop", {}, ["participantId", "roomId"]),
    (
        f"{PARTICIPANTS}/start",
        {"kind": "video", "metadata": {}, "config": {}},
        ["config", "kind", "metadata", "participantId", "roomId"],
    ),
    (f"{PARTICIPANTS}/start", {**PARTICIPANT, "kind": "video"}, ["kind"]),
    (f"{PARTICIPANTS}/start", {**PARTICIPANT, "fileFormat": "m3u8"}, ["fileFormat"]),
    (f"{PARTICIPANTS}/stop", {**PARTICIPANT, "kind": "video"}, ["kind"]),
    (f"{PARTICIPANTS}/stop", {**PARTICIPANT, "webhookUrl": "https://a.example"}, ["webhookUrl"]),
    (f"{PARTICIPANTS}/stop", {"roomId": "a/b", "participantId": None}, ["participantId", "roomId"]),
    *((f"{path}/start", {**body, "maxDurationSeconds": 59}, ["maxDurationSeconds"]) for path, body in WHOLES),
    *((f"{path}/stop", {**body, "maxDurationSeconds": 60}, ["maxDurationSeconds"]) for path, body in WHOLES),
    (f"{ROOMS}/start", {}, ["roomId"]),
    (f"{ROOMS}/stop", {}, ["roomId"]),
    (
        f"{ROOMS}/start",
        {**PARTICIPANT, "kind": "video", "fileFormat": "mp4", "awsDirPath": "a"},
        ["awsDirPath", "fileFormat", "kind", "participantId"],
    ),
    (f"{ROOMS}/stop", {**ROOM, "participantId": "p", "config": {"layout": GRID}}, ["config", "participantId"]),
    (f"{ROOMS}/stop", {"roomId": None}, ["roomId"]),
]


async def test_command_of_a_whole_with_another_form_names_each_field(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem
) -> None:
    """A mode has its own ids and parameters and no others, a stop takes no parameters, and what is missing is named."""
    async with nothing_reaches():
        for path, body, named in OTHER_FORMS:
            assert fields(check_problem(await gateway.post(path, json=body), "invalid-request")) == named, (path, body)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (f"{PARTICIPANTS}/a%5Cb/p", ["roomId"]),
        (f"{PARTICIPANTS}/a/p%00", ["participantId"]),
        (f"{ROOMS}/a%5Cb", ["roomId"]),
        (f"{ROOMS}/{'x' * 129}", ["roomId"]),
    ],
)
async def test_show_of_a_whole_with_a_wrong_path_segment_names_it(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem, path: str, named: list[str]
) -> None:
    """The parts of an address follow the rules of the body's fields."""
    async with nothing_reaches():
        assert fields(check_problem(await gateway.get(path), "invalid-request")) == named


@pytest.mark.parametrize("cursor", ["running..video", "ended..participant", "running.p.room", "running..composite"])
async def test_list_with_a_cursor_of_no_target_names_it(
    gateway: ApiClient, nothing_reaches: NothingReaches, check_problem: CheckProblem, cursor: str
) -> None:
    """A room's place has no participant, and all others have one."""
    async with nothing_reaches():
        answer = await gateway.list("room", cursor=cursor)
        assert fields(check_problem(answer, "invalid-request")) == ["cursor"]
