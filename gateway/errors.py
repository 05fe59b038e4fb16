"""Everything that can go wrong, sorted by whose it is to mend. Imports nothing of ours.

Two vocabularies, and `gateway.recordings.failures` is the one translator between them:

What the upstream did (`UpstreamError`; never shown to a caller as it is)::

    UpstreamError             nothing is known but that it failed: it may have happened
    ├── NeverSent             no byte of the request left: it did not happen
    │   └── SendWindowClosed  we were too slow to send it; ours to try again
    ├── Refused               VideoSDK answered 4xx, and the token is good: this call did nothing
    ├── CredentialsRefused    VideoSDK refused the token, with 400, 401 or 403: this call did nothing
    ├── Limited               VideoSDK answered 429, or 503 with Retry-After: this call did nothing
    ├── ListIncomplete        VideoSDK answered, and its list is longer than is read, or changes from page to page
    └── MayHaveHappened       sent, and no answer that settles it

What it means to the caller (`GatewayError`; each an RFC 9457 problem with a stable type)::

    GatewayError
    ├── the caller's to mend
    │   ├── MalformedRequest 400        InvalidRequest 422          Unauthenticated 401     Forbidden 403
    │   ├── NotFound 404                MethodNotAllowed 405        PayloadTooLarge 413     UnsupportedMediaType 415
    │   ├── HeadersTooLarge 431         ParametersDiffer 409        StillStopping 409
    │   └── UpstreamRefused 422         IdempotencyKeyReused 422    TooManyRequests 429
    ├── the operator's to mend
    │   └── UpstreamCredentialsRefused 502
    ├── gone by itself after a while
    │   ├── UpstreamLimited 503         UpstreamUnavailable 503     CoordinationUnavailable 503
    │   ├── OutcomeUnknown 504          DeadlineExceeded 504        TooManyWaiting 503
    │   └── IdentityUnavailable 503     ShuttingDown 503            NewerRecord 503
    └── ours to mend
        └── InternalError 500
"""

from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar, final

__all__ = [
    "PROBLEMS",
    "CoordinationUnavailable",
    "CredentialsRefused",
    "DeadlineExceeded",
    "Forbidden",
    "GatewayError",
    "HeadersTooLarge",
    "IdempotencyKeyReused",
    "IdentityUnavailable",
    "InternalError",
    "InvalidRequest",
    "Limited",
    "ListIncomplete",
    "MalformedRequest",
    "MayHaveHappened",
    "MethodNotAllowed",
    "NeverSent",
    "NewerRecord",
    "NotFound",
    "OutcomeUnknown",
    "ParametersDiffer",
    "PayloadTooLarge",
    "Refused",
    "SendWindowClosed",
    "ShuttingDown",
    "StillStopping",
    "TooManyRequests",
    "TooManyWaiting",
    "Unauthenticated",
    "UnsupportedMediaType",
    "UpstreamCredentialsRefused",
    "UpstreamError",
    "UpstreamLimited",
    "UpstreamRefused",
    "UpstreamUnavailable",
]


# --- what the upstream did ---------------------------------------------------------------------------------------


class UpstreamError(Exception):
    """A call to VideoSDK that brought no success.

    The gateway must assume that the call had its effect, so `may_have_happened` is true unless a subclass proves
    otherwise.
    """

    may_have_happened: ClassVar[bool] = True

    def __init__(self, message: str = "", *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        """What VideoSDK said, bounded and scrubbed; empty where it said nothing."""
        self.status = status
        """VideoSDK's HTTP status, or None where there was no answer."""
        self.retry_after = retry_after
        """Seconds VideoSDK asked us to wait, or None."""


class NeverSent(UpstreamError):
    """No byte of the request left this process: VideoSDK cannot have acted on it."""

    may_have_happened = False


@final
class SendWindowClosed(NeverSent):
    """The send gate stopped a request that was late: its claim might have been taken over meanwhile."""


@final
class Refused(UpstreamError):
    """VideoSDK refused what was asked for. This call did nothing; whether something runs is another question."""

    may_have_happened = False


@final
class CredentialsRefused(UpstreamError):
    """VideoSDK refused who asked."""

    may_have_happened = False


@final
class Limited(UpstreamError):
    """VideoSDK refused for now: rate, quota or overload."""

    may_have_happened = False


@final
class ListIncomplete(UpstreamError):
    """VideoSDK's list cannot be read to its end, or not of a piece; a shorter one may be."""

    def __init__(self, message: str = "", *, pages: float = inf) -> None:
        super().__init__(message)
        self.pages = pages
        """How many pages had to be read to try again; infinite where that would not help."""


@final
class MayHaveHappened(UpstreamError):
    """The request left, and nothing that came back says what became of it."""


# --- what it means to the caller ---------------------------------------------------------------------------------


class GatewayError(Exception):
    """A problem that a caller receives as `application/problem+json`.

    Args:
        detail: This occurrence, in a sentence safe to show: no secret, no exception text.
        retry_after: Seconds after which a retry makes sense, or None.
        extensions: Further members of the problem document.
    """

    slug: ClassVar[str]
    """Last part of the problem's `type`, stable for ever."""
    status: ClassVar[int]
    title: ClassVar[str]
    """The same for every occurrence."""
    advice: ClassVar[str]
    """What a caller should do, for the page at `/problems/<slug>`."""

    def __init__(
        self, detail: str = "", *, retry_after: float | None = None, extensions: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.extensions: dict[str, Any] = dict(extensions or {})


class MalformedRequest(GatewayError):
    """The request cannot be read."""

    slug, status, title = "malformed-request", 400, "Malformed request"
    advice = "Send a body that is one valid JSON object in UTF-8, and complete headers."


class InvalidRequest(GatewayError):
    """The request can be read, and asks for something that cannot be meant. Names every field at once."""

    slug, status, title = "invalid-request", 422, "Invalid request"
    advice = "Correct every field listed in `errors`, then send the request again. The gateway did nothing."

    @classmethod
    def of(cls, errors: list[tuple[str, str]]) -> "InvalidRequest":
        """Build from (field, message) pairs."""
        fields = ", ".join(dict.fromkeys(field for field, _ in errors))
        return cls(
            f"Not valid: {fields}.",
            extensions={"errors": [{"field": field, "message": message} for field, message in errors]},
        )


class Unauthenticated(GatewayError):
    """The gateway does not know who asks."""

    slug, status, title = "unauthenticated", 401, "Unauthenticated"
    advice = (
        "Send `Authorization: Bearer <key or token>` with a key or a token that is valid here and has not expired. A "
        "webhook has to be signed by VideoSDK, over its body exactly as it arrives."
    )


class Forbidden(GatewayError):
    """The gateway knows who asks, and that caller may not do this."""

    slug, status, title = "forbidden", 403, "Forbidden"
    advice = (
        "The member `rule` names the rule that refused, and `detail` what it asks for. Ask for something else, or ask "
        "the operator of the gateway to allow this."
    )


class NotFound(GatewayError):
    """There is no such route, or nothing is known of the target."""

    slug, status, title = "not-found", 404, "Not found"
    advice = "Check the address. A recording is known once the gateway was asked for it."


class MethodNotAllowed(GatewayError):
    """The route exists, with another method."""

    slug, status, title = "method-not-allowed", 405, "Method not allowed"
    advice = "Use one of the methods in the `Allow` header."


class ParametersDiffer(GatewayError):
    """The target is being recorded with other parameters."""

    slug, status, title = "parameters-differ", 409, "Parameters differ"
    advice = (
        "`fields` names what differs. Leave the running recording as it is and ask with its parameters, or stop it "
        "first and start again with yours."
    )

    @classmethod
    def of(cls, fields: list[str]) -> "ParametersDiffer":
        """Build from the names of the parameters that differ; other callers must not see their values."""
        return cls(f"It is recorded with another {', '.join(fields)}.", extensions={"fields": fields})


class StillStopping(GatewayError):
    """VideoSDK still works on the recording that was stopped just now, and starts no other until it is done."""

    slug, status, title = "still-stopping", 409, "Previous recording still stopping"
    advice = "Nothing is being recorded. Send the same request again after the seconds in `Retry-After`."


class PayloadTooLarge(GatewayError):
    """The body is longer than any honest request."""

    slug, status, title = "payload-too-large", 413, "Payload too large"
    advice = "Keep the body under the limit that `detail` names."


class HeadersTooLarge(GatewayError):
    """The request's first line and headers are longer than any honest request's."""

    slug, status, title = "headers-too-large", 431, "Headers too large"
    advice = "Keep the address and all headers together under the limit that `detail` names."


class UnsupportedMediaType(GatewayError):
    """The body is not JSON."""

    slug, status, title = "unsupported-media-type", 415, "Unsupported media type"
    advice = "Send `Content-Type: application/json`."


class IdempotencyKeyReused(GatewayError):
    """The caller has used this idempotency key for another request."""

    slug, status, title = "idempotency-key-reused", 422, "Idempotency key reused"
    advice = "Nothing was done. Send each new request with a new `Idempotency-Key`, and only its retries with the same."


class TooManyRequests(GatewayError):
    """The caller, or all callers together for one target, ask more often than they may."""

    slug, status, title = "too-many-requests", 429, "Too many requests"
    advice = (
        "Nothing was done. Send the same request again after the seconds in `Retry-After`. `RateLimit-Policy` says how "
        "much is allowed, `RateLimit` how much of it is left."
    )


class UpstreamRefused(GatewayError):
    """VideoSDK refused what the caller asked for: after a start nothing records, after a stop the recording goes on."""

    slug, status, title = "upstream-refused", 422, "Refused by VideoSDK"
    advice = (
        "`upstreamStatus` and `upstreamMessage` carry what VideoSDK said. Where a start was refused, nothing is being "
        "recorded: most often the room has no live session, or the participant does not publish this track. Where a "
        "stop was refused, the recording goes on. With a `Retry-After` the same request may succeed after that many "
        "seconds; without one, change what VideoSDK named first."
    )


class UpstreamCredentialsRefused(GatewayError):
    """VideoSDK refused the gateway's own credentials."""

    slug, status, title = "upstream-credentials-refused", 502, "Gateway credentials refused by VideoSDK"
    advice = "Nothing was done. Only the operator of the gateway can mend this: `gateway check` shows it."


class UpstreamLimited(GatewayError):
    """VideoSDK limits the gateway."""

    slug, status, title = "upstream-limited", 503, "Limited by VideoSDK"
    advice = "Nothing was done. Try again after the seconds in `Retry-After`."


class UpstreamUnavailable(GatewayError):
    """VideoSDK could not be reached, and the request never left."""

    slug, status, title = "upstream-unavailable", 503, "VideoSDK unavailable"
    advice = "Nothing was done. Try again after the seconds in `Retry-After`."


class CoordinationUnavailable(GatewayError):
    """Redis cannot be reached, so the gateway cannot promise exactly one start."""

    slug, status, title = "coordination-unavailable", 503, "Coordination unavailable"
    advice = "Nothing was done for this request. Try again after the seconds in `Retry-After`."


class NewerRecord(GatewayError):
    """A later version of the gateway keeps this target's record, in a form that this one does not know."""

    slug, status, title = "newer-record", 503, "Record of a newer gateway version"
    advice = (
        "This replica did nothing. While the gateway is being replaced, two versions serve side by side: send the same "
        "request again after the seconds in `Retry-After`, until the later one gets it."
    )


class TooManyWaiting(GatewayError):
    """More callers wait than the gateway lets wait."""

    slug, status, title = "too-many-waiting", 503, "Too many waiting requests"
    advice = "Nothing was done for this request. Try again after the seconds in `Retry-After`."


class IdentityUnavailable(GatewayError):
    """The keys of the identity provider or of VideoSDK are missing, so the gateway cannot check a signature."""

    slug, status, title = "identity-unavailable", 503, "Identity check unavailable"
    advice = "Nothing was done for this request. Try again after the seconds in `Retry-After`."


class ShuttingDown(GatewayError):
    """This process was asked to end, and accepts no new requests."""

    slug, status, title = "shutting-down", 503, "Shutting down"
    advice = "Send new requests to another replica. This one completes the requests it has accepted."


class OutcomeUnknown(GatewayError):
    """The request reached VideoSDK, and its result is not known yet."""

    slug, status, title = "outcome-unknown", 504, "Outcome unknown"
    advice = (
        "It may be recorded. The gateway finds out by itself. Ask for its state (the `Link` header "
        "names it), or send the same request again after `Retry-After`: that is safe and gets the truth."
    )


class DeadlineExceeded(GatewayError):
    """The caller's own wait ran out. The operation goes on without the caller."""

    slug, status, title = "deadline-exceeded", 504, "Deadline exceeded"
    advice = (
        "`detail` says whether an operation goes on without you. Send the same request again: it joins that operation "
        "or learns its result."
    )


class InternalError(GatewayError):
    """A mistake of ours."""

    slug, status, title = "internal", 500, "Internal error"
    advice = "Tell the operator of the gateway the `requestId`. Ask for the recording's state before you try again."


def _leaves(cls: type[GatewayError]) -> list[type[GatewayError]]:
    below = cls.__subclasses__()
    return [leaf for child in below for leaf in _leaves(child)] if below else [cls]


PROBLEMS: dict[str, type[GatewayError]] = {cls.slug: cls for cls in _leaves(GatewayError)}
"""Every problem by its slug."""
