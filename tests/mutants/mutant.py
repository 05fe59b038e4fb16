"""One mutant: a module with one small part of its text replaced."""

import difflib
from dataclasses import dataclass

__all__ = ["Mutant"]


@dataclass(frozen=True)
class Mutant:
    """A change of one module.

    Attributes:
        module: Its path in the project.
        operator: The kind of change.
        start: Where the replaced part begins, in characters.
        end: Where it ends.
        text: What stands there instead.
        line: The line it begins in, from 1.
        last_line: The last line of the statement it is in.
    """

    module: str
    operator: str
    start: int
    end: int
    text: str
    line: int
    last_line: int

    def applied(self, source: str) -> str:
        """Return the module's text with the change made."""
        return source[: self.start] + self.text + source[self.end :]

    def code(self, source: str) -> str:
        """Return the lines that change, as they are, in one line: what an entry of `accepted.toml` says of them."""
        return _one_line(source, self.start, self.end, source[self.start : self.end])

    def becomes(self, source: str) -> str:
        """Return what they change to, in one line."""
        return _one_line(source, self.start, self.end, self.text)

    def diff(self, source: str) -> str:
        """Return the change as people read it."""
        lines = difflib.unified_diff(
            source.splitlines(), self.applied(source).splitlines(), self.module, self.operator, lineterm="", n=2
        )
        return "\n".join(lines)


def _one_line(source: str, start: int, end: int, middle: str) -> str:
    first = source.rfind("\n", 0, start) + 1
    last = source.find("\n", end)
    after = source[end : last if last >= 0 else len(source)]
    return " ".join((source[first:start] + middle + after).split())
