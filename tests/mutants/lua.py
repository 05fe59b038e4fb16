"""What can go wrong in Lua: the same operators by tokens, and the named rules."""

import re
from collections.abc import Iterator
from typing import Final

from tests.mutants.mutant import Mutant
from tests.mutants.rules import every_change, span

__all__ = ["mutants", "named"]

_TOKENS: Final = re.compile(
    r"(?P<comment>--[^\n]*)|(?P<string>'[^'\n]*'|\"[^\"\n]*\")|(?P<number>\b\d+(?:\.\d+)?(?:e-?\d+)?\b)"
    r"|(?P<word>[A-Za-z_]\w*)|(?P<sign><=|>=|==|~=|\.\.|[-+*/<>=#(){}\[\],;.:%])"
)
_SWAPPED: Final = {
    "<": ("comparison", "<="), "<=": ("comparison", "<"), ">": ("comparison", ">="), ">=": ("comparison", ">"),
    "==": ("comparison", "~="), "~=": ("comparison", "=="), "+": ("arithmetic", "-"), "-": ("arithmetic", "+"),
    "*": ("arithmetic", "/"), "/": ("arithmetic", "*"), "and": ("boolean", "or"), "or": ("boolean", "and"),
    "not": ("not", ""), "true": ("constant", "false"), "false": ("constant", "true"),
    "math.max": ("function", "math.min"), "math.min": ("function", "math.max"),
}  # fmt: skip
_TURNED: Final = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}
"""No test meets the very millisecond: a comparison with now is turned round."""
_CALLED: Final = re.compile(r"^[ \t]*(?P<all>(?:redis\.call|save|schedule|wake|announce)\(.*\))[ \t]*$", re.MULTILINE)
_CONDITION: Final = re.compile(r"\b(?:if|elseif)\b(?P<test>[^\n]*?)\bthen\b")
_GUARDED: Final = re.compile(r"^[ \t]*(?P<all>if [^\n]* then [^\n]* end)[ \t]*$", re.MULTILINE)
_ASSIGNED: Final = re.compile(r"^[ \t]*(?P<all>(?:changes|r)\.\w+ = [^\n,]*?)[ \t]*$", re.MULTILINE)


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of a script, each once."""
    seen: set[tuple[int, int, str]] = set()
    for operator, start, end, text in _all(module, source):
        if source[start:end] != text and (start, end, text) not in seen:
            seen.add((start, end, text))
            first, last = source.count("\n", 0, start) + 1, source.count("\n", 0, end) + 1
            yield Mutant(module, operator, start, end, text, first, last)


def named(module: str, source: str) -> Iterator[Mutant]:
    """Yield the mutants of the rules that a source names, in Lua or Python."""
    for change in every_change(module, source):
        start, end, text = span(module, source, change)
        first, last = source.count("\n", 0, start) + 1, source.count("\n", 0, end) + 1
        yield Mutant(module, f"rule {change.rule}: {change.action}", start, end, text, first, last)


def _all(module: str, source: str) -> Iterator[tuple[str, int, int, str]]:
    code = re.sub(r"[ \t]*--[^\n]*", lambda found: " " * len(found[0]), source)
    before = ""
    for token in _TOKENS.finditer(source):
        text = token[0]
        match token.lastgroup:
            case "comment":
                continue
            case "number":
                yield "constant", token.start(), token.end(), str(float(text) + 1) if "." in text else _more(text)
            case "string" if re.fullmatch(r"[a-z_]+", text[1:-1]):
                yield "constant", token.start(), token.end(), f"'{text[1:-1]}_mutated'"
            # A minus after a sign or `return` is the number's own.
            case _ if text in _SWAPPED and not (text == "-" and before in {"(", ",", "=", "return", "{"}):
                operator, instead = _SWAPPED[text]
                if text in _TURNED and re.search(r"\bnow\b", _line_around(code, token.start())):
                    instead = _TURNED[text]
                yield operator, token.start(), token.end(), instead
            case _:
                pass
        before = text
    for name in ("math.max", "math.min"):
        for found in re.finditer(re.escape(name), code):
            yield "function", found.start(), found.end(), _SWAPPED[name][1]
    for pattern in (_CALLED, _GUARDED, _ASSIGNED):
        for found in pattern.finditer(code):
            yield "statement", *found.span("all"), ""
    for found in _CONDITION.finditer(code):
        yield "condition", *found.span("test"), f" not ({found['test'].strip()}) "


def _line_around(text: str, place: int) -> str:
    return text[text.rfind("\n", 0, place) + 1 :].partition("\n")[0]


def _more(number: str) -> str:
    if not number.isdigit():
        return f"({number} + 1)"
    return str(int(number) + 1 if int(number) < 10 else int(number) * 10)
