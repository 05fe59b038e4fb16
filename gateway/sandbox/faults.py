"""What may go wrong on purpose: rules that match calls or webhooks, and what they do.

A rule says *which* calls it concerns (endpoint, room, participant, kind), *how often* (`times`, `probability`) and
*what* happens (`action`). For one call every matching delay adds up, and the first other matching rule decides.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import msgspec

from gateway.sandbox.wire import Reply

CallAction = Literal[
    "delay",
    "refuse",
    "error",
    "error_after_apply",
    "reset_before",
    "reset_after",
    "hang_before",
    "hang_after",
    "garbage",
    "half_response",
    "apply_late",
    "empty_once",
    "unfiltered",
]
WebhookAction = Literal["webhook_lost", "webhook_late", "webhook_doubled", "webhook_unsigned", "webhook_reordered"]
Endpoint = Literal[
    "start",
    "stop",
    "list",
    "get",
    "delete",
    "participant-start",
    "participant-stop",
    "participant-list",
    "participant-get",
    "participant-delete",
    "room-start",
    "room-stop",
    "room-list",
    "room-get",
    "room-delete",
    "key",
    "create-room",
    "fetch-room",
    "sessions",
    "active-participants",
    "webhook",
    "unknown",
]
BodyShape = Literal["text", "string", "message", "error", "msg", "statusMessage", "code", "empty", "html"]
Applies = Literal["now", "late", "never"]
Ending = Literal["reply", "error", "reset", "hang", "garbage", "half", "empty"]

WEBHOOK_ACTIONS: Final = frozenset(get_args(WebhookAction))
_NEEDS_SECONDS: Final = frozenset({"delay", "apply_late", "webhook_late"})

# Whether the call takes effect, and how the exchange ends. None: the rule's own field says it.
_EFFECTS: Final[dict[str, tuple[Applies | None, Ending | None]]] = {
    "refuse": ("never", "error"),
    "error": ("never", "error"),
    "error_after_apply": ("now", "error"),
    "reset_before": ("never", "reset"),
    "reset_after": ("now", "reset"),
    "hang_before": ("never", "hang"),
    "hang_after": ("now", "hang"),
    "garbage": (None, "garbage"),
    "half_response": (None, "half"),
    "apply_late": ("late", None),
    "empty_once": ("never", "empty"),
    "unfiltered": ("now", "reply"),
}


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """One rule. In JSON its fields are written in camelCase."""

    action: CallAction | WebhookAction
    """What happens."""
    endpoint: Endpoint | Literal["*"] = "*"
    """Which endpoint: start, stop, list, get and delete are those of tracks; `*` means any."""
    room_id: str | None = None
    participant_id: str | None = None
    kind: str | None = None
    event: str | None = None
    """Webhook rules only: which `webhookType`; absent means any."""
    times: int | None = 1
    """How many calls (or deliveries) it strikes; null means for ever."""
    probability: float = 1.0
    """Chance of striking a call that matches; the simulator's seed makes the draws repeatable."""
    seconds: float = 0.0
    """Length in seconds of a delay; for `apply_late` and `webhook_late` when, from its arrival, it happens after all;
    for `webhook_reordered` how long to wait for a later event (2 where absent)."""
    when: Literal["before", "after"] = "before"
    """For `delay`: before the call takes effect, or after that and before the answer."""
    status: int = 500
    """Of an error; a 2xx is one too, which the service did not write."""
    body: BodyShape = "message"
    """Shape of an error's body: plain text, a JSON string, an object holding the text under that name, nothing, or the
    HTML page of something between the client and the service."""
    text: str = "Injected by the simulator."
    headers: dict[str, str] = {}
    """Further headers of an error, such as Retry-After."""
    applied: bool = False
    """For `garbage` and `half_response`: whether the call takes effect first."""
    how: Literal["hang", "reset"] = "hang"
    """For `apply_late`: what the client meets meanwhile."""

    def __post_init__(self) -> None:
        if self.action in _NEEDS_SECONDS and self.seconds <= 0:
            raise ValueError(f"{self.action} needs seconds above zero")
        if not 0 <= self.probability <= 1:
            raise ValueError("probability lies between 0 and 1")
        if not 200 <= self.status <= 599:
            raise ValueError("status lies between 200 and 599")
        if self.times is not None and self.times < 1:
            raise ValueError("times is at least 1, or null")

    @property
    def applies(self) -> Applies:
        """Whether and when a struck call takes effect."""
        return _EFFECTS[self.action][0] or ("now" if self.applied else "never")

    @property
    def ending(self) -> Ending:
        """How a struck exchange ends."""
        return _EFFECTS[self.action][1] or self.how

    def reply(self) -> Reply:
        """Return the error this rule answers with."""
        return error_reply(self.status, self.text, shape=self.body, headers=self.headers)


def error_reply(
    status: int, text: str, *, shape: BodyShape = "message", headers: dict[str, str] | None = None
) -> Reply:
    """Return an error in one of the body shapes a client of VideoSDK must be able to read.

    The shapes are those the vendor's Node package accepts (its source, 0.1.1): plain text, or an object with the
    message under one of four names and a code in `code`.
    """
    extra = tuple((headers or {}).items())
    if shape == "empty":
        return Reply(status, b"", headers=extra)
    if shape == "html":
        page = f"<!DOCTYPE html>\n<html><body><h1>{text}</h1></body></html>"
        return Reply(status, page.encode(), "text/html; charset=utf-8", extra)
    if shape == "text":
        return Reply(status, text.encode(), "text/plain; charset=utf-8", extra)
    if shape == "string":
        return Reply(status, msgspec.json.encode(text), headers=extra)
    content = {"message": text, "code": f"E{status}"} if shape == "code" else {shape: text}
    return Reply(status, msgspec.json.encode(content), headers=extra)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a rule is held against: a call, or the delivery of a webhook."""

    endpoint: Endpoint
    room_id: str | None
    participant_id: str | None
    kind: str | None
    event: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to one call: seconds to wait before and after it takes effect, and at most one fault."""

    before: float = 0.0
    after: float = 0.0
    fault: Fault | None = None
    names: tuple[str, ...] = ()

    @property
    def applies(self) -> Applies:
        """Whether and when the call takes effect."""
        return self.fault.applies if self.fault else "now"

    @property
    def ending(self) -> Ending:
        """How the exchange ends."""
        return self.fault.ending if self.fault else "reply"

    @property
    def unfiltered(self) -> bool:
        """Whether a list answers with the whole account."""
        return self.fault is not None and self.fault.action == "unfiltered"


@dataclass(slots=True)
class _Armed:
    rule: Fault
    left: int | None


class Faults:
    """The rules in force."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)
        self._armed: list[_Armed] = []

    def add(self, rules: Iterable[Fault]) -> None:
        """Put rules into force, behind those already there."""
        self._armed.extend(_Armed(rule, rule.times) for rule in rules)

    def clear(self) -> None:
        """Lift all rules."""
        self._armed.clear()

    @property
    def rules(self) -> list[Fault]:
        """The rules still in force, with the number of times each has left."""
        return [msgspec.structs.replace(promoted.rule, times=promoted.left) for promoted in self._armed]

    def plan(self, subject: Subject) -> Plan:
        """Decide what happens to a call, and count it against the rules that strike."""
        before = after = 0.0
        fault: Fault | None = None
        names: list[str] = []
        for promoted in tuple(self._armed):
            rule = promoted.rule
            is_delay = rule.action == "delay"
            if rule.action in WEBHOOK_ACTIONS or (fault is not None and not is_delay):
                continue
            if not self._strikes(promoted, subject):
                continue
            names.append(rule.action)
            if not is_delay:
                fault = rule
            elif rule.when == "before":
                before += rule.seconds
            else:
                after += rule.seconds
        return Plan(before, after, fault, tuple(names))

    def strike_webhook(self, subject: Subject) -> dict[str, Fault]:
        """Return the rules that strike one delivery, by action; the first of each action counts."""
        struck: dict[str, Fault] = {}
        for promoted in tuple(self._armed):
            action = promoted.rule.action
            if action in WEBHOOK_ACTIONS and action not in struck and self._strikes(promoted, subject):
                struck[action] = promoted.rule
        return struck

    def _strikes(self, promoted: _Armed, subject: Subject) -> bool:
        rule = promoted.rule
        if rule.endpoint not in {"*", subject.endpoint}:
            return False
        wanted = (
            (rule.room_id, subject.room_id),
            (rule.participant_id, subject.participant_id),
            (rule.kind, subject.kind),
            (rule.event, subject.event),
        )
        if any(asked is not None and asked != given for asked, given in wanted):
            return False
        if self._random.random() >= rule.probability:
            return False
        if promoted.left is not None:
            promoted.left -= 1
            if promoted.left == 0:
                self._armed.remove(promoted)
        return True
