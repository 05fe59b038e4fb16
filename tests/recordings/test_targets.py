"""What names a target, and which webhooks are about it."""

import pytest

from gateway.recordings import Kind, Mode, StartParameters, Target, WebhookEvent
from gateway.recordings.targets import differing_fields, target_of
from gateway.recordings.webhook_events import EventType

ADA = Target(Mode.TRACK, "room", "ada", Kind.VIDEO)


@pytest.mark.parametrize(
    ("room", "participant", "kind", "named"),
    [
        ("room", "ada", "video", ADA),
        ("room", "ada", "Video", None),
        ("room", "ada", None, None),
        ("room", "", "video", None),
        ("room", None, "video", None),
        ("", "ada", "video", None),
        ("a\\b", "ada", "video", None),
        ("room", "a/b", "video", None),
        ("r" * 128, "ada", "video", Target(Mode.TRACK, "r" * 128, "ada", Kind.VIDEO)),
        ("r" * 129, "ada", "video", None),
    ],
)
def test_target_is_named_by_ids_and_a_kind_that_there_is(
    room: str, participant: str | None, kind: str | None, named: Target | None
) -> None:
    """What VideoSDK may list and the gateway cannot name is no target."""
    assert Target.named(Mode.TRACK, room, participant, kind) == named


def test_target_is_read_back_from_the_key_of_its_record() -> None:
    """Whatever stands before the room."""
    assert target_of(":".join(("rec", "{07}", "t", "room", *ADA.parts))) == ADA


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (StartParameters(file_format="mp4"), ["fileFormat"]),
        (StartParameters(webhook_url="https://a.example/hook"), ["webhookUrl"]),
        (StartParameters(bucket_dir_path="a"), ["bucketDirPath"]),
        (StartParameters(config={"layout": {"type": "GRID"}}), ["config"]),
        (StartParameters(transcription={"enabled": True}), ["transcription"]),
        (StartParameters(template_url="https://a.example/page"), ["templateUrl"]),
        (StartParameters(config={}, template_url="https://a.example/page"), ["config", "templateUrl"]),
        (StartParameters(file_format="webm"), []),
    ],
)
def test_fingerprints_of_starts_differ_in_what_the_starts_differ_in(given: StartParameters, named: list[str]) -> None:
    """From one that says nothing. The format that VideoSDK takes by itself is no difference."""
    assert differing_fields(StartParameters().fingerprint, given.fingerprint) == named


def test_fingerprints_do_not_tell_the_order_of_members() -> None:
    """A JSON object is the same in any order; a list is not."""
    one, other = StartParameters(config={"a": [1, 2], "b": 3}), StartParameters(config={"b": 3, "a": [1, 2]})
    assert one.fingerprint == other.fingerprint
    assert differing_fields(one.fingerprint, StartParameters(config={"a": [2, 1], "b": 3}).fingerprint) == ["config"]


@pytest.mark.parametrize(
    ("room", "participant", "kind", "mode", "concerned"),
    [
        ("room", None, None, None, True),
        ("room", "ada", None, None, True),
        ("room", "ada", "video", Mode.TRACK, True),
        ("other", "ada", "video", Mode.TRACK, False),
        ("room", "bob", None, None, False),
        ("room", "ada", "audio", Mode.TRACK, False),
        ("room", "ada", "video", "room", False),
    ],
)
def test_webhook_concerns_what_it_names(
    room: str, participant: str | None, kind: str | None, mode: Mode | None, concerned: bool
) -> None:
    """All of a room or of a participant where it says no more."""
    event = WebhookEvent(room_id=room, participant_id=participant, kind=kind, type=EventType.STOPPED, mode=mode)
    assert event.concerns(ADA) is concerned
