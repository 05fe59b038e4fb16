"""What a caller may ask for: hostile and honest values, each rule by itself, and how a caller's table is read."""

import json
import time
import tomllib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.api.wire import StartTrackRecording, parameters_in, read_body
from gateway.auth.policy import (
    RULES,
    Policy,
    PolicyError,
    Scope,
    check,
    check_room,
    covers,
    covers_sort,
    exactly,
    max_duration_of,
)
from gateway.errors import Forbidden, InvalidRequest
from gateway.recordings import Kind, MaxDuration, Mode, Target
from tests.api.honest_inputs import HONEST, Honest
from tests.api.hostile_inputs import HOSTILE, INVALID, LISTED, LISTED_ONLY, OPEN, PATH, URL, Hostile

TRACK = Target(Mode.TRACK, "lesson-1", "teacher-1", Kind.VIDEO)
PARTICIPANT = Target(Mode.PARTICIPANT, "lesson-1", "teacher-1")
ROOM = Target(Mode.ROOM, "lesson-1")
START, STOP, READ, ADMIN = Scope.START, Scope.STOP, Scope.READ, Scope.ADMIN
CALLERS = {"open": Policy.from_table(OPEN), "listed": Policy.from_table(LISTED)}


def broken(policy: Policy, field: str, value: str) -> str | None:
    """Return the rule that a start with this value breaks; check that the refusal says no more than its name."""
    path = value if field == PATH else policy.bucket_dir_prefix
    url = value if field == URL else None
    try:
        check(policy, START, TRACK, url, path)
    except Forbidden as error:
        refusal = error
    else:
        return None
    rule = refusal.extensions["rule"]
    assert refusal.extensions == {"rule": rule}
    assert refusal.detail == RULES[rule]
    assert refusal.__context__ is None
    return rule


def broken_by_page(policy: Policy, value: str) -> str | None:
    """Return the rule that a start of a room with this templateUrl breaks."""
    try:
        check(policy, START, ROOM, None, policy.bucket_dir_prefix, value)
    except Forbidden as error:
        refusal = error
    else:
        return None
    assert refusal.detail == RULES[refusal.extensions["rule"]]
    assert "webhookUrl" not in refusal.detail
    return refusal.extensions["rule"]


def refused(
    policy: Policy, scope: str = START, track: Target = TRACK, bucket_dir_path: str | None = None
) -> str | None:
    """Return the rule that a request about a track breaks."""
    try:
        check(policy, scope, track, bucket_dir_path=bucket_dir_path)
    except Forbidden as refusal:
        return refusal.extensions["rule"]
    return None


def read(field: str, value: str) -> StartTrackRecording:
    """Read a request with this value as it comes over HTTP."""
    body = {"roomId": TRACK.room_id, "participantId": TRACK.participant_id, "kind": TRACK.kind, field: value}
    return read_body(json.dumps(body).encode(), StartTrackRecording)


def received(request: StartTrackRecording, field: str) -> str | None:
    """Return the value of a field that goes along to VideoSDK."""
    parameters = parameters_in(Mode.TRACK, request)
    return parameters.webhook_url if field == URL else parameters.bucket_dir_path


# --- the tables --------------------------------------------------------------------------------------------------


def test_policy_tables_hold_enough_distinct_values() -> None:
    """There are at least 120 hostile and 40 honest values, none twice, and every rule on values has several."""
    assert len({(row.field, row.value) for row in HOSTILE}) == len(HOSTILE) >= 120
    assert len({(row.field, row.value) for row in HONEST}) == len(HONEST) >= 40
    rows = Counter(row.rule for row in HOSTILE)
    on_values = {rule for rule in RULES if rule.startswith(("webhook-", "bucket-"))}
    assert on_values - {"bucket-form"} == rows.keys() - {INVALID}  # whatever breaks that one is not valid at all
    assert min(rows.values()) >= 2


@pytest.mark.parametrize("row", HOSTILE, ids=lambda row: f"{row.trick}: {ascii(row.value)[1:60]}")
def test_policy_refuses_hostile_values(row: Hostile) -> None:
    """Each is refused by its rule: as an invalid request, for every caller, or for callers with lists."""
    if row.rule == INVALID:
        with pytest.raises(InvalidRequest) as refusal:
            read(row.field, row.value)
        assert [error["field"] for error in refusal.value.extensions["errors"]] == [row.field]
        assert all(broken(policy, row.field, row.value) for policy in CALLERS.values()), "the policy alone must do, too"
        return
    assert received(read(row.field, row.value), row.field) == row.value
    assert broken(CALLERS["listed"], row.field, row.value) == row.rule
    assert broken(CALLERS["open"], row.field, row.value) == (None if row.rule in LISTED_ONLY else row.rule)


@pytest.mark.parametrize("row", HONEST, ids=lambda row: ascii(row.value)[1:60])
def test_policy_allows_honest_values_unchanged(row: Honest) -> None:
    """Each is read unchanged and breaks no rule; it breaks only a list's rule where it is not listed."""
    request = read(row.field, row.value)
    assert received(request, row.field) == row.value
    assert broken(CALLERS["open"], row.field, row.value) is None
    rule = broken(CALLERS["listed"], row.field, row.value)
    assert rule is None if row.listed else rule in LISTED_ONLY
    assert received(request, row.field) == row.value


@pytest.mark.parametrize("row", [row for row in HOSTILE if row.rule != INVALID], ids=lambda row: ascii(row.value)[1:60])
def test_policy_with_lists_refuses_hostile_values(row: Hostile) -> None:
    """Naming a host or a folder in a list makes no hostile value pass, whatever else is listed."""
    wide = Policy(
        webhook_hosts=("hooks.example.com", "*.example", "*.com", "*.1", "127.0.0.1", "localhost", "*.local"),
        bucket_dir_prefix="recordings",
    )
    if row.rule not in LISTED_ONLY:
        assert broken(wide, row.field, row.value) == row.rule


def test_policy_judges_pages_like_webhook_addresses() -> None:
    """A templateUrl falls under the same hosts and rules, by names of their own, and is https whatever a table says."""
    for row in (row for row in HOSTILE if row.field == URL):
        for name, policy in CALLERS.items():
            rule = broken(policy, URL, row.value)
            assert broken_by_page(policy, row.value) == (rule and rule.replace("webhook-", "template-")), (name, row)
    for row in (row for row in HONEST if row.field == URL):
        rule = broken(CALLERS["listed"], URL, row.value)
        assert broken_by_page(CALLERS["listed"], row.value) == (rule and rule.replace("webhook-", "template-")), row
    clear = Policy.from_table({"webhook_http": True})
    assert broken(clear, URL, "http://hooks.example.com/") is None
    assert broken_by_page(clear, "http://hooks.example.com/") == "template-https"
    inside = Policy.from_table({"webhook_private": True})
    assert broken_by_page(inside, "https://localhost/page") is None
    assert broken_by_page(Policy(webhook_hosts=()), "https://hooks.example.com/") == "template-hosts"


# --- any value at all --------------------------------------------------------------------------------------------


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=500, deadline=None)
def test_policy_judges_any_text_without_an_error(host: str, rest: str) -> None:
    """Whatever is sent is allowed or refused by a rule; nothing else ever happens."""
    for policy in CALLERS.values():
        assert broken(policy, URL, f"https://{host}/{rest}") in {None, *RULES}
        assert broken(policy, PATH, rest) in {None, *RULES}


def test_policy_judges_deeply_encoded_values_at_once() -> None:
    """Values made to be decoded for long are judged at once."""
    nested, wide = "%" + "25" * 1000, "%25" * 660
    started = time.process_time()
    for value in (nested, wide, "&amp;" * 100, "ﷺ" * 500, "%c0%ae" * 80, ("." + " " * 80) * 6, "a." * 1000):
        broken(CALLERS["open"], URL, f"https://hooks.example.com/{value}")
        broken(CALLERS["open"], URL, f"https://{value}/")
        broken(CALLERS["open"], PATH, value[:512])
    # Of the processor, and a hundred times what it takes: what decodes for long would take minutes.
    assert time.process_time() - started < 10


def test_policy_with_an_empty_list_allows_nothing() -> None:
    """A list without entries is not the same as no list."""
    assert broken(Policy.from_table({"webhook_hosts": []}), URL, "https://hooks.example.com/") == "webhook-hosts"
    assert broken(Policy.from_table({"webhook_hosts": []}), PATH, "recordings") is None
    assert refused(Policy.from_table({"rooms": []})) == "room"
    assert refused(Policy.from_table({"participants": []})) == "participant"
    assert refused(Policy.from_table({"kinds": []})) == "kind"
    assert refused(Policy.from_table({"scopes": []})) == "scope"


# --- scopes, rooms, participants, kinds, folders -----------------------------------------------------------------


def test_policy_scopes_do_not_include_each_other() -> None:
    """No scope includes another; without the key everybody has the everyday ones."""
    for scope in Scope:
        policy = Policy.from_table({"scopes": [scope]})
        assert {other for other in Scope if refused(policy, other) is None} == {scope}
    assert {scope for scope in Scope if refused(Policy(), scope) is None} == {START, STOP, READ}
    assert refused(Policy(), "recordings:everything") == "scope"
    assert refused(Policy(), "recordings:start") is None


@pytest.mark.parametrize("key", ["rooms", "participants"])
def test_policy_ids_match_whole_or_by_prefix(key: str) -> None:
    """Only a `*` at the end stands for more; capital letters differ."""
    policy = Policy.from_table({key: ["one", "lesson-*"]})

    def rule(identifier: str) -> str | None:
        return refused(
            policy, START, Target(Mode.TRACK, *((identifier, "p") if key == "rooms" else ("r", identifier)), Kind.AUDIO)
        )

    assert [rule(name) for name in ("one", "lesson-", "lesson-1", "lesson-a-b")] == [None] * 4
    assert {rule(name) for name in ("One", "one1", "on", "lesson", "LESSON-1", "a-lesson-1", "*")} == {key[:-1]}
    assert refused(Policy.from_table({key: ["*"]})) is None


@pytest.mark.parametrize(
    "name", ["user@example.com", "a b", "zoë", "auth0|5f7c", "*", "a*", "a*b", "*b", "...", "a%2Fb"]
)
def test_policy_names_any_id_exactly(name: str) -> None:
    """`exactly` is the pattern of one id, also of one with an asterisk; a table writes a backslash before it."""
    for policy in (Policy(rooms=(exactly(name),)), Policy.from_table({"rooms": [exactly(name)]})):
        assert refused(policy, START, Target(Mode.TRACK, name, "p", Kind.AUDIO)) is None
        for other in (f"{name}x", f"x{name}", "x", name.replace("*", "x"), name.replace("*", "\\*"), name.upper()):
            if other != name:
                assert refused(policy, START, Target(Mode.TRACK, other, "p", Kind.AUDIO)) == "room"


def test_policy_beginning_may_hold_an_asterisk() -> None:
    """The last `*` alone stands for more."""
    policy = Policy.from_table({"rooms": ["a\\*b*"]})
    rooms = ("a*b", "a*bc", "ab", "axb", "a\\*b")
    rules = [refused(policy, START, Target(Mode.TRACK, room, "p", Kind.AUDIO)) for room in rooms]
    assert rules == [None, None, "room", "room", "room"]


@pytest.mark.parametrize("prefix", ["school/a", "/school/a", "school/a/", "/school/a/"])
def test_policy_prefix_compares_segments_whatever_slashes_surround_it(prefix: str) -> None:
    """A slash at either end is none of a segment, of the prefix and of the path."""
    policy = Policy.from_table({"bucket_dir_prefix": prefix})

    def rule(path: str) -> str | None:
        return refused(policy, START, bucket_dir_path=path)

    assert {rule(path) for path in ("school/a", "/school/a", "school/a/", "/school/a/b/", "school/a/b")} == {None}
    assert {rule(path) for path in ("/school/ab", "school", "/school/", "/school/b/a/")} == {"bucket-prefix"}
    assert {rule(path) for path in ("//school/a", "/school//a", "/", "school/a//")} == {"bucket-form"}


def test_policy_allows_only_the_listed_kinds() -> None:
    """Only the kinds in the list."""
    policy = Policy.from_table({"kinds": ["audio", "screen_audio"]})
    rules = {kind: refused(policy, START, Target(Mode.TRACK, "r", "p", kind)) for kind in Kind}
    assert rules == {Kind.AUDIO: None, Kind.SCREEN_AUDIO: None, Kind.VIDEO: "kind", Kind.SCREEN_VIDEO: "kind"}


def test_policy_with_kinds_refuses_a_target_without_kind() -> None:
    """A recording of several kinds at once is not of a listed one, even where all are listed."""
    whole = Target(Mode.TRACK, "lesson-1", "teacher-1")
    policy = Policy.from_table({"kinds": list(Kind)})
    assert refused(policy, track=whole) == "kind"
    assert not covers(policy, whole)
    assert refused(Policy(), track=whole) is None


@pytest.mark.parametrize(
    ("table", "rules"),
    [
        ({}, (None, None, None)),
        ({"participants": ["teacher-*"]}, (None, None, "mode")),
        ({"participants": []}, ("participant", "participant", "mode")),
        ({"participants": ["*"]}, (None, None, "mode")),
        ({"modes": []}, ("mode", "mode", "mode")),
        ({"modes": ["track"]}, (None, "mode", "mode")),
        ({"modes": ["room"]}, ("mode", "mode", None)),
        (
            {"modes": ["track", "participant", "room"], "participants": ["pupil-1"]},
            ("participant", "participant", None),
        ),
        ({"modes": ["track", "participant"], "participants": ["teacher-1"]}, (None, None, "mode")),
        ({"modes": ["room"], "participants": []}, ("participant", "participant", None)),
        ({"kinds": ["video"]}, (None, "kind", "kind")),
        ({"modes": ["room"], "kinds": ["video"]}, ("mode", "mode", "kind")),
        ({"rooms": ["exam-*"]}, ("room", "room", "room")),
    ],
)
def test_policy_limited_to_participants_covers_a_room_only_where_it_names_the_mode(
    table: dict[str, object], rules: tuple[str | None, ...]
) -> None:
    """What is recorded of a room shows everybody in it; what a policy refuses it does not show either."""
    policy = Policy.from_table(table)
    targets = (TRACK, PARTICIPANT, ROOM)
    assert tuple(refused(policy, READ, target) for target in targets) == rules
    assert [covers(policy, target) for target in targets] == [rule is None for rule in rules]
    # Of a mode as such: some participant may be recorded.
    sorts = [covers_sort(policy, target.mode, target.kind) for target in targets]
    anyone = [replace(target, participant_id="pupil-1") if target.participant_id else target for target in targets]
    expected = [covers(policy, one) or covers(policy, other) for one, other in zip(targets, anyone, strict=True)]
    assert [seen or "rooms" in table for seen in sorts] == [seen or "rooms" in table for seen in expected]


def test_policy_names_the_first_broken_rule() -> None:
    """Who may not act at all learns nothing of the further rules."""
    policy = Policy.from_table({"scopes": ["recordings:read"], "rooms": [], "participants": [], "kinds": []})
    assert refused(policy, START) == "scope"
    assert refused(policy, READ) == "room"


def test_policy_for_a_room_filters_its_tracks() -> None:
    """A request about a room asks for its scope and the room; what it shows is chosen track by track."""
    policy = Policy.from_table({"rooms": ["lesson-*"], "participants": ["teacher-*"], "kinds": ["video"]})
    check_room(policy, READ, "lesson-1")
    for scope, room in ((READ, "exam-1"), (ADMIN, "lesson-1")):
        with pytest.raises(Forbidden):
            check_room(policy, scope, room)
    assert covers(policy, TRACK)
    for other in (
        Target(Mode.TRACK, "exam-1", "teacher-1", Kind.VIDEO),
        Target(Mode.TRACK, "lesson-1", "pupil-1", Kind.VIDEO),
        Target(Mode.TRACK, "lesson-1", "teacher-1", Kind.AUDIO),
    ):
        assert not covers(policy, other)
    assert not covers(Policy.from_table({"kinds": []}), TRACK)


@pytest.mark.parametrize(
    ("path", "rule"),
    {
        "a/b": None,
        "a/b/c": None,
        "a/b/a/b": None,
        "a/bc": "bucket-prefix",
        "a": "bucket-prefix",
        "b/a/b": "bucket-prefix",
        "a/B": "bucket-prefix",
        "a/b%2fc": "bucket-encoding",
        "a/b/../c": "bucket-traversal",
        "a/b//": "bucket-form",
        "/a/b/": None,
    }.items(),
)
def test_policy_compares_folders_segment_by_segment(path: str, rule: str | None) -> None:
    """`a/b` allows what lies in it, and not what begins alike."""
    assert broken(Policy.from_table({"bucket_dir_prefix": "a/b"}), PATH, path) == rule


def test_policy_with_a_required_folder_refuses_a_start_without_one() -> None:
    """Left out, the recording would lie elsewhere; a stop and a read name none."""
    policy = Policy.from_table({"bucket_dir_prefix": "a/b"})
    assert refused(policy, START) == "bucket-prefix"
    assert refused(policy, STOP) is refused(policy, READ) is None


def test_policy_refusal_never_holds_the_value() -> None:
    """What a refusal says is the same for every value."""
    secret = "s3cr3t-canary"
    policy = Policy.from_table({**LISTED, "rooms": ["lesson-*"]})
    for track, url, path in (
        (Target(Mode.TRACK, secret, "p", Kind.VIDEO), None, None),
        (TRACK, f"https://{secret}.example/", None),
        (TRACK, f"https://{secret}@hooks.example.com/", None),
        (TRACK, f"https://{secret}_/", None),
        (TRACK, None, secret),
        (TRACK, None, f"{secret}/%2e%2e"),
    ):
        with pytest.raises(Forbidden) as refusal:
            check(policy, START, track, url, path)
        assert secret not in f"{refusal.value!r}{refusal.value.detail}{refusal.value.extensions}"


# --- a caller's table --------------------------------------------------------------------------------------------

TABLE = """
scopes = ["recordings:start", "recordings:stop"]
rooms = ["lesson-*", "demo"]
participants = ["teacher-1"]
modes = ["track", "room"]
kinds = ["audio", "video"]
webhook_hosts = ["Hooks.Example.com.", "*.BÜCHER.example"]
webhook_http = true
webhook_private = false
bucket_dir_prefix = "recordings/lesson 1"
max_duration_seconds = 5400
lengthen = true
"""


def test_policy_table_with_every_key_is_read() -> None:
    """Every key has its place; hosts are normalised; the table is left as it was; policies can be compared."""
    table = tomllib.loads(TABLE)
    policy = Policy.from_table(table)
    assert policy == Policy(
        scopes=frozenset({START, STOP}),
        rooms=("lesson-*", "demo"),
        participants=("teacher-1",),
        modes=frozenset({Mode.TRACK, Mode.ROOM}),
        kinds=frozenset({Kind.AUDIO, Kind.VIDEO}),
        webhook_hosts=("hooks.example.com", "*.xn--bcher-kva.example"),
        webhook_http=True,
        bucket_dir_prefix="recordings/lesson 1",
        max_duration_seconds=5400,
        lengthen=True,
    )
    assert table == tomllib.loads(TABLE)
    assert hash(policy) == hash(Policy.from_table(table))
    before = repr(policy)
    for row in HOSTILE:
        broken(policy, row.field, row.value)
    assert repr(policy) == before
    with pytest.raises(AttributeError):
        policy.webhook_http = False  # pyright: ignore[reportAttributeAccessIssue]


def test_policy_table_that_is_empty_restricts_nothing() -> None:
    """No key restricts nothing."""
    assert Policy.from_table({}) == Policy()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("webhook_host", ["hooks.example.com"]),
        ("Rooms", []),
        ("scopes", "recordings:start"),
        ("scopes", ["start"]),
        ("scopes", ["recordings:start", "recordings:*"]),
        ("scopes", None),
        ("modes", "track"),
        ("modes", ["composite"]),
        ("modes", ["TRACK"]),
        ("modes", ["rooms"]),
        ("modes", [""]),
        ("modes", [1]),
        ("modes", None),
        ("modes", {"track": True}),
        ("kinds", ["smell"]),
        ("kinds", ["VIDEO"]),
        ("kinds", [1]),
        ("rooms", "lesson"),
        ("rooms", [""]),
        ("rooms", ["les*son"]),
        ("rooms", ["**"]),
        ("rooms", ["*-1"]),
        ("rooms", ["a/b"]),
        ("rooms", ["a\\b"]),
        ("rooms", [".."]),
        ("rooms", ["lesson\n"]),
        ("rooms", ["x" * 129]),
        ("participants", [7]),
        ("participants", {"teacher": True}),
        ("webhook_http", "yes"),
        ("webhook_private", 1),
        ("lengthen", 1),
        *(("max_duration_seconds", wrong) for wrong in (0, 59, 86_401, -60, 60.0, True, "60", [60], None)),
        ("bucket_dir_prefix", ["a"]),
        ("bucket_dir_prefix", ""),
        ("bucket_dir_prefix", "//a"),
        ("bucket_dir_prefix", "/"),
        ("bucket_dir_prefix", "a/../b"),
        ("bucket_dir_prefix", "a%2fb"),
        ("webhook_hosts", "hooks.example.com"),
        *(
            ("webhook_hosts", [pattern])
            for pattern in (
                *("", "*", "*.", "*.*", "*.*.example.com", "a.*.example.com", "hooks*.example.com", "**.example.com"),
                *("https://hooks.example.com", "hooks.example.com:443", "hooks.example.com/x", "u@hooks.example.com"),
                *("hooks..example.com", ".example.com", "hooks_1.example.com", "hooks.example.com\n", " example.com"),
                *("*.com", "com", "localhost", "*.localhost", "db.internal", "*.svc", "nip.io", "*.nip.io"),
                *("127.0.0.1", "*.127.0.0.1", "127.1", "0x7f.1", "[::1]", "::1", "１２７.0.0.1", "127%2e0.0.1"),
                *("straße.example", "xn--a.example", "a" * 64 + ".example", "a." * 130 + "example"),
            )
        ),
    ],
)
def test_policy_table_with_a_mistake_names_its_key(key: str, value: object) -> None:
    """The message names the key, and the place in its list, not what stands there."""
    with pytest.raises(PolicyError) as error:
        Policy.from_table({"rooms": ["demo"], "webhook_hosts": ["hooks.example.com"], key: value})
    assert key in str(error.value)
    assert error.value.__cause__ is None
    if key == "webhook_hosts" and isinstance(value, list) and len(value[0]) > 6:
        assert value[0] not in str(error.value)


def test_policy_table_with_a_wrong_entry_names_its_place() -> None:
    """The message names the place in the list, counted from nought as in the file's own language."""
    with pytest.raises(PolicyError, match=r"webhook_hosts\[1\]"):
        Policy.from_table({"webhook_hosts": ["hooks.example.com", "127.0.0.1"]})
    with pytest.raises(PolicyError, match=r"modes\[1\] must be one of track, participant, room"):
        Policy.from_table({"modes": ["room", "smell"]})
    for pattern in ("127.1", "*.127.0.0.1", "::1", "[127.0.0.1]"):
        with pytest.raises(PolicyError, match=r"webhook_hosts\[0\]"):
            Policy.from_table({"webhook_private": True, "webhook_hosts": [pattern]})


@pytest.mark.parametrize(
    ("table", "asked", "expected"),
    [
        ({}, None, MaxDuration()),
        ({}, 600, MaxDuration(600)),
        ({"max_duration_seconds": 900}, None, MaxDuration(900)),
        ({"max_duration_seconds": 900}, 600, MaxDuration(600)),
        ({"max_duration_seconds": 900}, 1200, MaxDuration(900)),
        ({"lengthen": True}, 600, MaxDuration(600, lengthens=True)),
        ({"stop_others": False}, 600, MaxDuration(600, only_of="ada")),
        ({"scopes": ["recordings:start"]}, 600, MaxDuration(600, only_of="ada")),
        ({"scopes": ["recordings:start", "recordings:stop"]}, 600, MaxDuration(600)),
    ],
)
def test_policy_bounds_a_start(table: dict[str, object], asked: int | None, expected: MaxDuration) -> None:
    """The smaller duration counts; who may not stop what others started may not bring its end forward either."""
    assert max_duration_of(Policy.from_table(table), "ada", asked) == expected


def test_policy_of_a_table_keeps_its_duration_whatever_a_token_says() -> None:
    """What a token says narrows where it may act, and lengthens nothing."""
    table = Policy.from_table({"max_duration_seconds": 900, "lengthen": True})
    narrowed = table.narrowed(Policy(rooms=("lesson",)))
    assert (narrowed.max_duration_seconds, narrowed.lengthen) == (900, True)


def test_policy_rules_have_a_slug_and_a_sentence() -> None:
    """Every rule has a slug that fits an address, and a sentence that ends."""
    for slug, sentence in RULES.items():
        assert slug.replace("-", "").isalpha()
        assert slug == slug.lower()
        assert sentence.endswith(".")
