"""What names a target, and which webhooks are about it."""

import pytest

from gateway.recordings import Kind, Mode, Target, WebhookEvent
from gateway.recordings.targets import target_of
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
