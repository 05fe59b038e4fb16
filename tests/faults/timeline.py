"""Shows what happened to one track around one moment, for people who look for the cause."""

import math

from tests.faults.history import ClientCall, History, UpstreamCall

__all__ = ["timeline"]


def timeline(history: History, track: str, at: float, *, before: float = 8.0, after: float = 3.0) -> str:
    """Return the events of a track around a moment, one a line, in seconds from that moment."""
    place = track.rpartition("/")[0]
    first, last = at - before, at + after
    events: list[tuple[float, str]] = []
    events += [(call.begun, _client(call, at)) for call in history.calls if call.track == track]
    events += [(post.received, _upstream(post, at)) for post in history.upstream if post.track in {track, place}]
    for one in history.intervals:
        if one.track == track:
            events.append((one.opened, f"    ###### RECORDS from here (params={one.params!r} by #{one.started_by})"))
            if one.closed != math.inf:
                end = "ENDS UNSEEN" if one.unseen else "ENDS"
                events.append((one.closed, f"    ###### {end} (began at {one.opened - at:+.3f})"))
    for trouble in history.troubles:
        if trouble.begun <= last and trouble.ended >= first:
            lasting = f" for {trouble.ended - trouble.begun:.3f}" if trouble.ended > trouble.begun else ""
            events.append((trouble.begun, f"!!!!!! {trouble.what} {trouble.process} {trouble.detail}{lasting}"))
    lines = [f"{moment - at:+8.3f}  {text}" for moment, text in sorted(events) if first <= moment <= last]
    return "\n".join([f"--- {track} around {at:.3f}", *lines])


def _client(call: ClientCall, at: float) -> str:
    answer = call.outcome or call.problem or ("left" if call.left else "LOST")
    what = f"{call.op}({call.params})" if call.params else call.op
    said = f"{call.status} {answer} {call.state} {call.id[-6:]}"
    return f"{call.process:>4}: {what} until {call.ended - at:+.3f} -> {said}"


def _upstream(post: UpstreamCall, at: float) -> str:
    end = "never" if post.ended == math.inf else f"{post.ended - at:+.3f}"
    effect = f" effect {post.applied - at:+.3f}" if post.applied and post.endpoint != "list" else ""
    fault = f" [{post.fault}]" if post.fault else ""
    gone = " client gone" if post.gone else ""
    return f"    == #{post.seq} {post.endpoint} {post.attempt}{fault}{effect} until {end} -> {post.status}{gone}"
