"""A value that may be used but not shown; imports nothing of ours, so that every layer may hold one."""

import hmac
from typing import Any, Final, NoReturn

_SHOWN: Final = "[secret]"
_SHORTEST_KNOWN: Final = 8
"""Shorter ones would be found in the middle of words."""
_MAX_KNOWN: Final = 256

_known: dict[str, None] = {}


def known_secrets() -> tuple[str, ...]:
    """Return the texts of the secrets there are in this process, so that they can be masked wherever they turn up.

    Of those that were replaced the latest are among them: a library's message may still hold one.
    """
    return tuple(_known)


class Secret:
    """Hold text that must not appear in logs, errors, reprs or encoded output.

    Only `reveal` gives the text back, so every place that uses it can be found by that name. Encoders that know only
    plain types refuse it, encoders that fall back to `repr` or `str` show `[secret]`, and it cannot be pickled.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text: Final = text
        if len(text) >= _SHORTEST_KNOWN:
            _known.pop(text, None)
            _known[text] = None
            while len(_known) > _MAX_KNOWN:
                del _known[next(iter(_known))]

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
