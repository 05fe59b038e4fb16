"""What the gateway knows of one request: one struct, made by the middleware and filled in on the way to the answer."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct, field

from gateway.auth.api_keys import Caller
from gateway.observability.tracing import RequestSpan

__all__ = ["RequestContext"]

_KEY: Final = "gateway.request"


class RequestContext(Struct, kw_only=True):
    """One request. `of` finds it in the ASGI scope of the request."""

    request_id: str
    prefix: str = ""
    """What an ingress strips from the path, and links have to begin with."""
    caller: Caller | None = None
    """Who sends the request; None before authentication, and where a route needs none."""
    span: RequestSpan | None = None
    """The span of the request; None where there are no traces."""
    challenge: str = "Bearer"
    """The scheme that a 401 names."""
    status_path: str = ""
    """Where the caller can read the state of what the request is about."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """Headers of the answer, whatever the answer is."""
    outcome: str | None = None
    """What a start or stop did."""
    commands: list[tuple[str, str, int, str]] = field(default_factory=list[tuple[str, str, int, str]])
    """What a request for several stood for: of each its scope, mode and status, and its outcome or problem."""
    recording: str | None = None
    """The id of the recording in the answer."""
    replayed: bool = False
    """Whether the answer is one that was stored under the request's idempotency key."""
    problem: str | None = None
    """The slug of the problem that the answer is."""
    rule: str | None = None
    """The rule of the policy that refused the request."""
    webhook: str | None = None
    """The type of the webhook event that the request carried."""

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> "RequestContext":
        """Return the context of a request; a fresh one where the middleware did not run."""
        state = scope["state"]
        return state[_KEY] if _KEY in state else state.setdefault(_KEY, cls(request_id=""))

    @classmethod
    def begin(cls, scope: Any, request_id: str, prefix: str) -> "RequestContext":
        """Make the context of a request that has just arrived."""
        context = cls(request_id=request_id, prefix=prefix)
        scope.setdefault("state", {})[_KEY] = context
        return context

    def let_in(self, caller: Caller, scope: Mapping[str, Any]) -> None:
        """Note who sends the request: only now its headers may place it in a trace."""
        self.caller = caller
        if self.span is not None:
            self.span.begin(scope["headers"])

    @property
    def sender(self) -> Caller:
        """Who sends the request, on a route behind authentication."""
        assert self.caller is not None  # noqa: S101 - the guard of every such route has set it
        return self.caller

    def logged(self) -> dict[str, object]:
        """Return what the access log says of the request beside its path and status."""
        said: dict[str, object] = {
            "caller": self.caller.name if self.caller is not None else None,
            "outcome": self.outcome,
            "problem": self.problem,
            "rule": self.rule,
            "recording": self.recording,
            "replayed": self.replayed or None,
            "webhook": self.webhook,
            "commands": dict(Counter(str(status) for _, _, status, _ in self.commands)) if self.commands else None,
        }
        return {name: value for name, value in said.items() if value is not None}
