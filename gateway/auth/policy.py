"""What a caller may ask for: a table of the callers file, and the one check of a request against it.

Some rules hold for every caller, whatever its table says: a webhook address is well formed, carries no credentials, no
fragment and no encoded control characters, has a host that all parsers read alike, and a `bucketDirPath` hides no
slash and climbs nowhere. Others hold until the table loosens them: https (`webhook_http`), no IP addresses and no
private names (`webhook_private`). The rest hold once the table has the list: `scopes`, `rooms`, `participants`,
`modes`, `kinds`, `webhook_hosts`, `bucket_dir_prefix`. An absent list allows everything, an empty one nothing. In the
file no table is without `scopes`. `max_duration_seconds` refuses nothing: a recording ends then (`max_duration_of`).

The tables of tokens (`[join_tokens]`, `[jwt]`) differ in three things. What a token itself says narrows them further.
An absent `webhook_hosts` or `bucket_dir_prefix` allows no webhookUrl and no bucketDirPath. And join tokens stop only
what join tokens started, unless the table says `stop_others = true`.

A refusal names the rule and never the value: the value may be a secret, and it is the caller's own anyway. What passes
is passed on as it was written, so nothing here returns a text.
"""

import re
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any, Final, NoReturn, cast

import msgspec
from msgspec.structs import replace

from gateway.auth.canonical_text import is_line_noise, unmasked
from gateway.auth.webhook_urls import HostError, broken_rule, normal_pattern
from gateway.errors import Forbidden
from gateway.recordings import MODES, Kind, MaxDuration, Mode, Target
from gateway.recordings.model import LONGEST_SECONDS, SHORTEST_SECONDS
from gateway.recordings.targets import is_id

__all__ = [
    "JOIN_TOKENS",
    "JWTS",
    "RULES",
    "Policy",
    "PolicyError",
    "Scope",
    "check",
    "check_room",
    "covers",
    "covers_sort",
    "exactly",
    "max_duration_of",
    "modes_of",
    "refuse",
]

_MAX_PATH: Final = 512
_MAX_NAME: Final = 64
_PATTERN: Final = re.compile(r"((?:[^*\\]|\\\*)*)(\*?)", re.DOTALL)
"""An id, in which `\\*` is an asterisk, or the beginning of one with a `*` at the end."""
_PLACEHOLDER: Final = re.compile(r"\{roomId\}|\{participantId\}")
_UPWARDS: Final = re.compile(r"\s*\.[\s.]*(;.*)?", re.DOTALL)
"""A segment of dots. Blanks around them and parameters after them are dropped by some parsers."""


def _of_template(rule: str) -> str:
    """Return the rule of a templateUrl that corresponds to one of a webhookUrl."""
    return rule.replace("webhook-", "template-")


_OF_WEBHOOKS: Final[Mapping[str, str]] = {
    "webhook-form": "The webhookUrl must be an absolute http or https URL that is read in one way only.",
    "webhook-https": "The webhookUrl must begin with https.",
    "webhook-credentials": "The webhookUrl must not carry credentials.",
    "webhook-fragment": "The webhookUrl must not have a fragment.",
    "webhook-encoding": "The webhookUrl must not hide control characters, or anything behind many layers of encoding.",
    "webhook-host-form": "The webhookUrl's host must be a host name that is read in one way only, without escapes.",
    "webhook-ip-literal": "The webhookUrl's host must be a name, not an IP address in any spelling.",
    "webhook-private-name": "The webhookUrl's host must be a public name.",
    "webhook-hosts": "The webhookUrl's host is not one of those you may use.",
}

RULES: Final[Mapping[str, str]] = {
    "scope": "You do not have the scope that this request needs.",
    "room": "You may not act in this room.",
    "participant": "You may not act on this participant.",
    "mode": "You may act on recordings of some modes only. A join token: on those of tracks, unless it has allow_mod. "
    "Who is limited to some participants: on those of a room only where its policy names that mode.",
    "kind": "You may act on tracks of some kinds only.",
    "starter": "You may stop only what you started. A join token: what one of this participant or a moderator started.",
    **_OF_WEBHOOKS,
    **{_of_template(rule): text.replace("webhookUrl", "templateUrl") for rule, text in _OF_WEBHOOKS.items()},
    "folder": "You may not choose a bucketDirPath.",
    "bucket-form": "The bucketDirPath must be a path without control characters and empty segments.",
    "bucket-encoding": "The bucketDirPath must not hide slashes or control characters behind encodings or lookalikes.",
    "bucket-traversal": "The bucketDirPath must not have a segment that stands for another folder, in any encoding.",
    "bucket-prefix": "The bucketDirPath must be given, and lie in the folder that is yours.",
}
"""Every rule: its slug, stable for ever, and what it asks for."""


class PolicyError(ValueError):
    """A caller's table cannot be used; the message names its key, and not what stands there."""


class Scope(StrEnum):
    """What a caller may do at all. None includes another."""

    START = "recordings:start"
    STOP = "recordings:stop"
    READ = "recordings:read"
    ADMIN = "recordings:admin"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What one caller may ask for. None does not restrict; an empty list allows nothing."""

    scopes: frozenset[Scope] = frozenset({Scope.START, Scope.STOP, Scope.READ})
    """What it may do."""

    rooms: tuple[str, ...] | None = None
    """Ids of rooms (`exactly`), or the beginning of ids with a `*` at the end."""

    participants: tuple[str, ...] | None = None
    """Ids of participants (`exactly`), or the beginning of ids with a `*` at the end."""

    modes: frozenset[Mode] | None = None
    """Modes of recordings. Where only some participants are allowed, those of a room only if it stands here."""

    kinds: frozenset[Kind] | None = None
    """Kinds of tracks. What has no kind, since it holds several, is not among them."""

    webhook_hosts: tuple[str, ...] | None = None
    """`hooks.example.com`, or `*.example.com` for all below it and not itself. `from_table` normalises them."""

    webhook_http: bool = False
    """Whether webhooks may go out in the clear. They carry addresses of recordings."""

    webhook_private: bool = False
    """Whether webhooks may go to private names and IP addresses. For tests and sandboxes: in production it lets a
    caller reach whatever the sender of the webhooks can reach."""

    bucket_dir_path: bool = True
    """Whether a start may name a bucketDirPath at all."""

    bucket_dir_prefix: str | None = None
    """Folder in which all this caller's recordings must lie, compared segment by segment. A start must name one."""

    max_duration_seconds: int | None = None
    """How long a recording that it starts or joins may last at most; a start may ask for less."""

    lengthen: bool = False
    """Whether a start that joins a recording may put its end off. Without it a start only brings the end forward."""

    stop_others: bool = True
    """Whether it may stop recordings that it did not start (`gateway.auth.api_keys.Caller.may_stop`)."""

    @classmethod
    def from_table(
        cls, table: Mapping[str, object], unless_said: "Policy | None" = None, *, placeholders: bool = False
    ) -> "Policy":
        """Read a table, without a caller's keys.

        Args:
            table: As it stands in the file.
            unless_said: What holds where the table says nothing.
            placeholders: Whether `{roomId}` and `{participantId}` may stand in its `bucket_dir_prefix`.

        Raises:
            PolicyError: It names the key that is unknown or holds something else than it should.
        """
        for key in table:
            if key not in cls.__struct_fields__:
                raise PolicyError(f"{key[:_MAX_NAME]!r} is not a key of a caller's policy")
        private = _flag(table, "webhook_private")
        given: dict[str, Any] = {
            "scopes": _choices(table, "scopes", Scope),
            "modes": _choices(table, "modes", Mode),
            "kinds": _choices(table, "kinds", Kind),
            "rooms": _ids(table, "rooms"),
            "participants": _ids(table, "participants"),
            "webhook_hosts": _hosts(table, private),
            "webhook_http": _flag(table, "webhook_http"),
            "webhook_private": private,
            "bucket_dir_path": _flag(table, "bucket_dir_path"),
            "bucket_dir_prefix": _prefix(table, placeholders=placeholders),
            "max_duration_seconds": _duration(table, "max_duration_seconds"),
            "lengthen": _flag(table, "lengthen"),
            "stop_others": _flag(table, "stop_others"),
        }
        said = {key: value for key, value in given.items() if key in table}
        if "bucket_dir_prefix" in said:
            said.setdefault("bucket_dir_path", True)
        return replace(unless_said or cls(), **said)

    def narrowed(self, token: "Policy") -> "Policy":
        """Return what both a table, this one, and a token allow."""
        return replace(
            self,
            scopes=self.scopes & token.scopes,
            rooms=_common(self.rooms, token.rooms),
            participants=_common(self.participants, token.participants),
            modes=_both(self.modes, token.modes),
        )

    def filled(self, room_id: str | None, participant_id: str | None) -> "Policy":
        """Return this with a token's own ids in its folder; without the scope to start where the token lacks one."""
        if self.bucket_dir_prefix is None:
            return self
        ids = {"{roomId}": room_id, "{participantId}": participant_id}
        if any(name in self.bucket_dir_prefix and own is None for name, own in ids.items()):
            return replace(self, scopes=self.scopes - {Scope.START})
        # In one pass: an id may look like a placeholder.
        prefix = _PLACEHOLDER.sub(lambda match: ids[match[0]] or "", self.bucket_dir_prefix)
        return replace(self, bucket_dir_prefix=prefix)


JOIN_TOKENS: Final = Policy(webhook_hosts=(), bucket_dir_path=False, stop_others=False)
"""What join tokens may ask for where the callers file does not say, beside their room and participant."""
JWTS: Final = Policy(scopes=frozenset(Scope), webhook_hosts=(), bucket_dir_path=False)
"""What JWTs may ask for where the callers file does not say, beside the scopes and rooms in them."""


def check(
    policy: Policy,
    scope: str,
    target: Target,
    webhook_url: str | None = None,
    bucket_dir_path: str | None = None,
    template_url: str | None = None,
) -> None:
    """Let a request about a target pass, or refuse it.

    Raises:
        Forbidden: The extension member `rule` names the first rule that is broken.
    """
    check_room(policy, scope, target.room_id)
    if _has_participant(target.mode) and not _names(policy.participants, target.participant_id):
        refuse("participant")
    if not _covers_mode(policy, target.mode):
        refuse("mode")
    if policy.kinds is not None and target.kind not in policy.kinds:
        refuse("kind")
    if webhook_url is not None:
        rule = broken_rule(
            webhook_url, http=policy.webhook_http, private=policy.webhook_private, hosts=policy.webhook_hosts
        )
        if rule:
            refuse(rule)
    if template_url is not None:
        # VideoSDK opens this page as it sends webhooks, so it may lead where these may, but never in the clear.
        rule = broken_rule(template_url, http=False, private=policy.webhook_private, hosts=policy.webhook_hosts)
        if rule:
            refuse(_of_template(rule))
    if bucket_dir_path is not None:
        rule = _broken_by_path(bucket_dir_path, policy.bucket_dir_prefix)
        if rule or not policy.bucket_dir_path:
            refuse(rule or "folder")
    elif scope == Scope.START and policy.bucket_dir_prefix is not None:
        # Left out, the recording would lie wherever the project's default is: not in the caller's folder.
        refuse("bucket-prefix")


def max_duration_of(policy: Policy, name: str, asked: int | None) -> MaxDuration:
    """Return for how long a start has its target recorded, and what it may do to the end of what it joins.

    To bring an end forward is to stop: who may stop only what it started, or nothing, may bound only what it started.

    Args:
        policy: The caller's.
        name: The same.
        asked: Seconds that the start says, None where it does not.
    """
    seconds = min((most for most in (asked, policy.max_duration_seconds) if most is not None), default=0)
    may_stop = policy.stop_others and Scope.STOP in policy.scopes
    return MaxDuration(float(seconds), policy.lengthen, "" if may_stop else name)


def check_room(policy: Policy, scope: str, room_id: str) -> None:
    """Let a request about a whole room pass, or refuse it. What it shows is then chosen with `covers`.

    Raises:
        Forbidden: The extension member `rule` names the first rule that is broken.
    """
    if scope not in policy.scopes:
        refuse("scope")
    if not _names(policy.rooms, room_id):
        refuse("room")


def covers(policy: Policy, target: Target) -> bool:
    """Tell whether a target is among those the caller may act on, whatever it may do to it."""
    return (
        _names(policy.rooms, target.room_id)
        and (not _has_participant(target.mode) or _names(policy.participants, target.participant_id))
        and covers_sort(policy, target.mode, target.kind)
    )


def covers_sort(policy: Policy, mode: Mode, kind: Kind | None) -> bool:
    """Tell whether recordings of this mode and kind, of some participant, are among those the caller may act on."""
    none = _has_participant(mode) and policy.participants == ()
    return not none and _covers_mode(policy, mode) and (policy.kinds is None or kind in policy.kinds)


def _covers_mode(policy: Policy, mode: Mode) -> bool:
    """Tell whether recordings of this mode are allowed.

    What is recorded of a room shows all who are in it: a policy that is limited to some participants covers it only
    where it names the mode.
    """
    if policy.modes is None:
        return policy.participants is None or _has_participant(mode)
    return mode in policy.modes


def _has_participant(mode: Mode) -> bool:
    return "participantId" in MODES[mode].ids


def modes_of(policy: Policy) -> list[Mode]:
    """Return the modes of whose recordings some may be among those the caller may act on."""
    return [
        mode
        for mode, spec in MODES.items()
        if any(covers_sort(policy, mode, kind) for kind in (Kind if "kind" in spec.ids else [None]))
    ]


def refuse(rule: str) -> NoReturn:
    """Refuse a request.

    Raises:
        Forbidden: It names the rule.
    """
    raise Forbidden(RULES[rule], extensions={"rule": rule})


def exactly(identifier: str) -> str:
    """Return the pattern that names this id and no other."""
    return identifier.replace("*", "\\*")


def _both(one: frozenset[Mode] | None, other: frozenset[Mode] | None) -> frozenset[Mode] | None:
    return one if other is None else other if one is None else one & other


def _common(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the patterns of what both name: of each pair that overlaps, the narrower one."""
    if one is None or other is None:
        return other if one is None else one
    pairs = [(mine, theirs) for mine in one for theirs in other]
    narrower = [theirs if _includes(mine, theirs) else mine for mine, theirs in pairs
                if _includes(mine, theirs) or _includes(theirs, mine)]  # fmt: skip
    return tuple(dict.fromkeys(narrower))


def _includes(pattern: str, other: str) -> bool:
    return pattern == other or (_is_beginning(pattern) and other.startswith(pattern[:-1]))


def _names(patterns: Collection[str] | None, identifier: str) -> bool:
    written = exactly(identifier)
    return patterns is None or any(_includes(pattern, written) for pattern in patterns)


def _is_beginning(pattern: str) -> bool:
    return pattern.endswith("*") and not pattern.endswith("\\*")


def _broken_by_path(path: str, prefix: str | None) -> str | None:
    segments = _segments(path)
    if not 0 < len(path) <= _MAX_PATH or "" in segments or "\\" in path or any(map(is_line_noise, path)):
        return "bucket-form"
    plain = unmasked(path)
    if plain is None:
        return "bucket-encoding"
    if any(_UPWARDS.fullmatch(segment) for segment in re.split(r"[/\\]", plain)):
        return "bucket-traversal"
    if plain.count("/") != path.count("/") or "\\" in plain or any(map(is_line_noise, plain)):
        return "bucket-encoding"
    if prefix is not None:
        required = _segments(prefix)
        if segments[: len(required)] != required:
            return "bucket-prefix"
    return None


def _segments(path: str) -> list[str]:
    return path.removeprefix("/").removesuffix("/").split("/")


# --- how the values of a table are read --------------------------------------------------------------------------


def _flag(table: Mapping[str, object], key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise PolicyError(f"{key} must be true or false")
    return value


def _duration(table: Mapping[str, object], key: str) -> int | None:
    if key not in table:
        return None
    value = table[key]
    if not isinstance(value, int) or isinstance(value, bool) or not SHORTEST_SECONDS <= value <= LONGEST_SECONDS:
        raise PolicyError(f"{key} must be a whole number from {SHORTEST_SECONDS} to {LONGEST_SECONDS}")
    return value


def _strings(table: Mapping[str, object], key: str) -> list[str]:
    values = table.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in cast("list[object]", values)):
        raise PolicyError(f"{key} must be a list of strings")
    return cast("list[str]", values)


def _choices(table: Mapping[str, object], key: str, choices: type[StrEnum]) -> frozenset[StrEnum]:
    values = _strings(table, key)
    for number, value in enumerate(values):
        if value not in list(choices):
            raise PolicyError(f"{key}[{number}] must be one of {', '.join(choices)}")
    return frozenset(map(choices, values))


def _ids(table: Mapping[str, object], key: str) -> tuple[str, ...]:
    values = _strings(table, key)
    for number, value in enumerate(values):
        match = _PATTERN.fullmatch(value)
        # With a character in the star's place a beginning is an id.
        if match is None or not is_id(match[1].replace("\\*", "*") + match[2]):
            raise PolicyError(
                f"{key}[{number}] must be an id, or its beginning with a `*`; an asterisk of an id is written `\\*`"
            )
    return tuple(values)


def _hosts(table: Mapping[str, object], private: bool) -> tuple[str, ...]:
    patterns: list[str] = []
    for number, value in enumerate(_strings(table, "webhook_hosts")):
        try:
            patterns.append(normal_pattern(value, private=private))
        except HostError as error:
            wrong = f"webhook_hosts[{number}] must be a host name or `*.` and one: it {error}"
            raise PolicyError(wrong) from None
    return tuple(patterns)


def _prefix(table: Mapping[str, object], *, placeholders: bool) -> str | None:
    value = table.get("bucket_dir_prefix")
    if value is None:
        return None
    if not isinstance(value, str):
        raise PolicyError("bucket_dir_prefix must be a string")
    if _broken_by_path(value, None):
        raise PolicyError("bucket_dir_prefix must be a path that callers may send: no empty segment, no `..`")
    if _PLACEHOLDER.search(value) and not placeholders:
        raise PolicyError("bucket_dir_prefix may hold {roomId} and {participantId} in [join_tokens] alone")
    return value
