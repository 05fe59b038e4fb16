"""What a failure of Redis was: no answer at all, or a server that says "not here, not now"."""

import re
from typing import Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

__all__ = ["KINDS", "kind_of", "refusal_of"]

_REFUSALS: Final = {
    "READONLY": "readonly",
    "MASTERDOWN": "master_down",
    "CLUSTERDOWN": "cluster_down",
    "LOADING": "loading",
    "OOM": "out_of_memory",
    "NOREPLICAS": "too_few_replicas",
    "MISCONF": "cannot_persist",
    "BUSY": "busy",
    "UNBLOCKED": "readonly",
    "MOVED": "moved",
    "ASK": "moved",
    "TRYAGAIN": "moving",
}
"""A server's words for not taking what has to be written, and what they are counted as."""

_DENIALS: Final = {"NOAUTH": "denied", "WRONGPASS": "denied", "NOPERM": "denied"}
"""Its words for credentials or rights that are wrong: another connection would not help."""

KINDS: Final = tuple(dict.fromkeys(("timeout", "connection", *_REFUSALS.values(), *_DENIALS.values(), "other")))
"""What failures are counted as."""

# Of a script, servers before Redis 7 say it within a sentence: "ERR Error running script …: -OOM command not allowed".
_WORDS: Final = re.compile(rf"(?:^|-)({'|'.join([*_REFUSALS, *_DENIALS])})\b")


def refusal_of(error: BaseException) -> str:
    """Return why a server takes no writes, as it is counted; empty for any other failure."""
    return _REFUSALS.get(_word_of(error), "")


def kind_of(error: BaseException) -> str:
    """Return what a failure is counted as."""
    word = _word_of(error)
    if word:
        return {**_REFUSALS, **_DENIALS}[word]
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return "timeout"
    return "connection" if isinstance(error, OSError | RedisConnectionError | RuntimeError) else "other"


def _word_of(error: BaseException | None) -> str:
    """Find the server's word; behind Sentinels redis-py makes another error of a demoted master's answer."""
    while error is not None:
        # redis-py takes the words that it knows off the text.
        if match := _WORDS.search(f"{getattr(error, 'status_code', None) or ''} {error}".strip()):
            return match[1]
        error = error.__context__
    return ""
