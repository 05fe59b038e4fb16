"""Rules that sources name, and what a mutant makes of one.

A comment at the end of a line names the rule that it holds: `-- rule: fence` in Lua, `# rule: send-gate` in Python. A
mutant says the name and what becomes of it, so neither renames nor moves touch it:

    drop("trust")               the line goes: a whole statement, or one operand on a line of its own
    never("fence")              the condition that begins on the line never holds
    always("fence")             it always holds
    value("restore", "false")   this is assigned instead
    becomes("settled", "…")     this stands there instead; the last resort, because it repeats names of the source
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

__all__ = ["Change", "Rule", "always", "becomes", "broken", "drop", "every_change", "never", "rules", "span", "value"]

_MARK: Final = re.compile(r"[ \t]*(?:--|#) rule: (?P<name>[a-z0-9-]+)[ \t]*$", re.MULTILINE)
_CONDITION: Final = re.compile(r"\b(?:if|elseif|elif|while)\b")
_END_OF_CONDITION: Final = {
    ".lua": re.compile(r"\b(?:then|do)\b"),
    ".py": re.compile(r":(?=[ \t]*(?:#.*)?$)", re.MULTILINE),
}
_ASSIGNMENT: Final = re.compile(r"^[^=~<>!]*[^=~<>!](?P<sign>=)(?!=)")
_OPERAND: Final = re.compile(r"^\s*(?:and|or)\b")
_WORD: Final = re.compile(r"(?:'[^'\n]*'|\"[^\"\n]*\")|([A-Za-z_]\w*)")
_CONSTANTS: Final = frozenset(
    {"true", "false", "nil", "True", "False", "None", "if", "then", "end", "and", "or", "not"}
)


@dataclass(frozen=True)
class Change:
    """What becomes of one rule.

    Attributes:
        rule: Its name.
        action: drop, never, always, value or becomes.
        text: What stands there instead, for the last two.
    """

    rule: str
    action: str
    text: str = ""


@dataclass(frozen=True)
class Rule:
    """A rule as the source has it: its name, and the span of the marked line's code."""

    name: str
    start: int
    end: int


def drop(rule: str) -> Change:
    """Remove the line."""
    return Change(rule, "drop")


def never(rule: str) -> Change:
    """Replace the condition by false."""
    return Change(rule, "never")


def always(rule: str) -> Change:
    """Replace the condition by true."""
    return Change(rule, "always")


def value(rule: str, text: str) -> Change:
    """Assign something else."""
    return Change(rule, "value", text)


def becomes(rule: str, text: str) -> Change:
    """Put something else in place of the line."""
    return Change(rule, "becomes", text)


def rules(text: str) -> list[Rule]:
    """Return the rules that a source names, in its order.

    Raises:
        LookupError: Two have the same name.
    """
    found: list[Rule] = []
    for mark in _MARK.finditer(text):
        line = text.rfind("\n", 0, mark.start()) + 1
        start = line + len(text[line : mark.start()]) - len(text[line : mark.start()].lstrip())
        found.append(Rule(mark["name"], start, mark.start()))
    names = [rule.name for rule in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise LookupError(f"rules named twice: {', '.join(sorted(twice))}")
    return found


def broken(name: str, text: str, changes: Sequence[Change]) -> str:
    """Return a source with some of its rules broken.

    Args:
        name: Its file's, whose ending tells the language.
        text: The source.
        changes: What to break.

    Raises:
        LookupError: It has no such rule, or the rule's line has nothing of the kind.
    """
    for change in changes:
        start, end, instead = span(name, text, change)
        text = text[:start] + instead + text[end:]
    return text


def span(name: str, text: str, change: Change) -> tuple[int, int, str]:
    """Return which part of the text a change replaces, and by what.

    Raises:
        LookupError: There is no such rule, or nothing of the kind on its line.
    """
    rule = next((rule for rule in rules(text) if rule.name == change.rule), None)
    if rule is None:
        raise LookupError(f"{name} names no rule {change.rule!r}")
    line = text[rule.start : rule.end]
    suffix = PurePath(name).suffix
    unknown = {word for word in _WORD.findall(change.text) if word} - _CONSTANTS - set(_WORD.findall(text))
    if unknown:
        raise LookupError(f"{name} has changed; it knows nothing of {', '.join(sorted(unknown))}")
    match change.action:
        case "drop":
            gone = "" if suffix == ".lua" or _OPERAND.match(line) else "pass"
            return rule.start, rule.end, gone
        case "becomes":
            return rule.start, rule.end, change.text
        case "value" if found := _ASSIGNMENT.match(line):
            return rule.start + found.end("sign"), rule.end, f" {change.text}"
        case "never" | "always" if (begins := _CONDITION.search(line)) and (
            ends := _END_OF_CONDITION[suffix].search(text, rule.start + begins.end())
        ):
            word = str(change.action == "always")
            instead = f" {word}" if suffix == ".py" else f" {word.lower()} "
            return rule.start + begins.end(), ends.start(), instead
        case _:
            pass
    raise LookupError(f"{name}: nothing to {change.action} where the rule {change.rule!r} stands: {line}")


def every_change(name: str, text: str) -> Iterator[Change]:
    """Yield what can be made of every rule without knowing what it is about."""
    for rule in rules(text):
        line = text[rule.start : rule.end]
        if _CONDITION.match(line):
            yield from (never(rule.name), always(rule.name))
        elif _OPERAND.match(line):
            yield drop(rule.name)
        elif _ASSIGNMENT.match(line):
            false, true = ("False", "True") if name.endswith(".py") else ("false", "true")
            yield from (value(rule.name, false), value(rule.name, true))
        else:
            yield drop(rule.name)
