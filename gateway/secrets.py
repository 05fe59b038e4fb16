"""A value that may be used but not shown; imports nothing of ours, so that every layer may hold one."""

import hmac
import threading
from typing import Any, Final, NoReturn

_SHOWN: Final = "[secret]"
_SHORTEST_KNOWN: Final = 8
"""Shorter ones would be found in the middle of words."""
_MAX_RELEASED: Final = 64
"""Tokens are minted and dropped without end; what was in use a while ago is in no message any more."""

_held: dict[str, int] = {}
"""How many secrets hold a text. As long as one does it is masked, however many come and go meanwhile."""
_released: dict[str, None] = {}
"""The latest texts that no secret holds any more: a library's message may still hold one."""
_lock: Final = threading.RLock()


def known_secrets() -> tuple[str, ...]:
    """Return the texts of the secrets in use in this process, so that they can be masked wherever they turn up.

    Of those that were replaced the latest are among them.
    """
    # `list` copies in one step: neither another thread nor the garbage collector changes a dict within it.
    return (*list(_held), *list(_released))


def _hold(text: str) -> None:
    if len(text) >= _SHORTEST_KNOWN:
        with _lock:
            _held[text] = _held.get(text, 0) + 1


def _release(text: str) -> None:
    if len(text) < _SHORTEST_KNOWN:
        return
    with _lock:
        if _held[text] > 1:
            _held[text] -= 1
            return
        # First known here, then no more there: who asks in between finds it in one of the two.
        _released.pop(text, None)
        _released[text] = None
        del _held[text]
        while len(_released) > _MAX_RELEASED:
            del _released[next(iter(_released))]


class Secret:
    """Hold text that must not appear in logs, errors, reprs or encoded output.

    Only `reveal` gives the text back, so every place that uses it can be found by that name. Encoders that know only
    plain types refuse it, encoders that fall back to `repr` or `str` show `[secret]`, and it cannot be pickled.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        _hold(text)
        self._text: Final = text

    def __del__(self) -> None:
        if text := getattr(self, "_text", ""):
            _release(text)

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return _SHOWN

    def __str__(self) -> str:
        return _SHOWN

    def __format__(self, spec: str) -> str:
        return format(_SHOWN, spec)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        # In constant time: secrets are also compared with what callers send.
        return hmac.compare_digest(self._text.encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Secret":
        return self

    def __reduce__(self) -> NoReturn:
        message = "a Secret is not written out"
        raise TypeError(message)
