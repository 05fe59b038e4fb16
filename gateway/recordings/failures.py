"""The one translator between what VideoSDK did and what that means to a caller."""

from gateway.errors import (
    CredentialsRefused,
    GatewayError,
    Limited,
    NeverSent,
    OutcomeUnknown,
    Refused,
    UpstreamCredentialsRefused,
    UpstreamError,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)

__all__ = ["MAY_PASS", "NO_SESSION", "list_unavailable", "problem_for", "stop_refused"]

MAY_PASS = frozenset({400, 409})
"""Refusals of a start that may pass by themselves: a participant who is only just joining, a recording that was stopped
a moment ago. The other families last: no session (403), no such room or participant (402, 404)."""
NO_SESSION = frozenset({402, 403})
"""What VideoSDK answers of a room that has no live session, or that there is not: nothing can begin in it."""

_LIMITED_SECONDS = 5.0
_UNAVAILABLE_SECONDS = 2.0
_UNKNOWN_SECONDS = 5.0
_UNSEEN_SECONDS = 1.0
_REFUSED_SECONDS = 2.0


def problem_for(error: UpstreamError) -> GatewayError:
    """Return the problem that a caller gets; every failure that proves nothing is `OutcomeUnknown`."""
    match error:
        case NeverSent():
            return UpstreamUnavailable(
                "VideoSDK could not be reached; nothing was sent.", retry_after=_UNAVAILABLE_SECONDS
            )
        case CredentialsRefused():
            # Not its words: they are about our credentials.
            return UpstreamCredentialsRefused("VideoSDK did not accept the gateway's token; nothing was done.")
        case Limited():
            return UpstreamLimited(
                "VideoSDK accepts no more requests at the moment; nothing was done.",
                retry_after=error.retry_after or _LIMITED_SECONDS,
                extensions={"upstreamStatus": error.status},
            )
        case Refused():
            return UpstreamRefused(
                f"VideoSDK refused with status {error.status}.",
                retry_after=error.retry_after or (_REFUSED_SECONDS if error.status in MAY_PASS else None),
                extensions={"upstreamStatus": error.status, "upstreamMessage": error.message},
            )
        case _:
            return OutcomeUnknown(
                "VideoSDK was asked, and did not say what happened.",
                retry_after=_UNKNOWN_SECONDS,
                extensions={"upstreamStatus": error.status} if error.status else {},
            )


def stop_refused(error: Refused) -> UpstreamRefused:
    """Return the problem where VideoSDK refused a stop, and its list shows that the target still records."""
    return UpstreamRefused(
        f"VideoSDK refused the stop with status {error.status}; the recording goes on.",
        retry_after=error.retry_after or _REFUSED_SECONDS,
        extensions={"upstreamStatus": error.status, "upstreamMessage": error.message},
    )


def list_unavailable(error: UpstreamError | None) -> OutcomeUnknown:
    """Return the problem where VideoSDK's list was asked, and did not tell."""
    return OutcomeUnknown(
        "VideoSDK could not be asked whether anything records.",
        retry_after=problem_for(error).retry_after if error else _UNSEEN_SECONDS,
    )
