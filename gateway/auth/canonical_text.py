"""What a text may become when its receivers decode it.

The gateway passes a caller's text on byte for byte. Its receivers may decode it, some more than once, some with rules
of their own. Rules that forbid something therefore look at what a text may become, and never change the text itself.
"""

import html
import re
import unicodedata
from typing import Final
from urllib.parse import unquote_to_bytes

__all__ = ["decoded", "is_line_noise", "unmasked"]

_MAX_LAYERS: Final = 8
"""No honest sender encodes a text this often; and each layer costs a pass over it."""
_UNITS: Final = re.compile(r"%u([0-9a-f]{4})", re.IGNORECASE | re.ASCII)
"""The escapes of old JavaScript and of IIS: `%u002e`."""
_OVERLONG: Final = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]|\xf0[\x80-\x8f][\x80-\xbf]{2}")
"""UTF-8 that takes more bytes than the character needs: `%c0%ae` for a dot."""
_LINE_NOISE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_LOOKALIKES: Final = {
    **dict.fromkeys("\u1735\u2041\u2044\u2215\u215f\u2571\u27cb\u29f8", "/"),
    **dict.fromkeys("\u2216\u2572\u27cd\u29f5\u29f9", "\\"),
    **dict.fromkeys("\u0701\u0702\u3002\uff61\ua4f8\ua60e", "."),
}
"""Characters that are read as a slash, a backslash or a dot, and that Unicode's own normalisation leaves alone."""


def is_line_noise(character: str) -> bool:
    """Tell whether a character is a control character, half of a pair, or ends a line."""
    return unicodedata.category(character) in _LINE_NOISE


def decoded(text: str) -> str | None:
    """Undo percent-encoding, however often it was done.

    Returns:
        The text without a layer of encoding left, or None where there are more than `_MAX_LAYERS`.
    """
    for _ in range(_MAX_LAYERS):
        text, before = _decode(text), text
        if text == before:
            return text
    return None


def unmasked(text: str) -> str | None:
    """Undo percent-encoding and HTML entities, and write lookalikes of ASCII characters as what they look like.

    Returns:
        The text as the most lenient parser sees it, or None where there are more than `_MAX_LAYERS`.
    """
    for _ in range(_MAX_LAYERS):
        before = text
        text = "".join(map(_fold, html.unescape(_decode(text))))
        if text == before:
            return text
    return None


def _decode(text: str) -> str:
    if "%" not in text:
        return text
    octets = unquote_to_bytes(_UNITS.sub(lambda match: chr(int(match[1], 16)), text).encode("utf-8", "replace"))
    # Bytes that are no UTF-8 are dropped, as lenient parsers do: `%c0%2e` is a dot to them.
    return _OVERLONG.sub(_shorten, octets).decode("utf-8", "ignore")


def _shorten(match: re.Match[bytes]) -> bytes:
    lead, *rest = match[0]
    code = lead & (0x1F if lead < 0xE0 else 0x0F if lead < 0xF0 else 0x07)
    for octet in rest:
        code = code << 6 | octet & 0x3F
    return chr(code).encode("utf-8", "replace")


def _fold(character: str) -> str:
    if character.isascii():
        return character
    if character in _LOOKALIKES:
        return _LOOKALIKES[character]
    if unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""  # invisible: joiners, soft hyphens, selectors between two dots
    plain = unicodedata.normalize("NFKC", character)
    # One for one, and the dot leaders. A fraction or a ligature that becomes several characters hides nothing.
    return plain if len(plain) == 1 or set(plain) == {"."} else character
