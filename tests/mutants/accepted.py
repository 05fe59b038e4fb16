"""The list of mutants that need not be killed, each with a reason."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from tests.mutants.mutant import Mutant

__all__ = ["FILE", "AcceptedMutant", "entries", "without"]

FILE: Final = Path(__file__).parent / "accepted.toml"


class AcceptedMutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One or more mutants of one line.

    Attributes:
        module: The module's path.
        operator: The kind of change.
        code: The line as it is.
        reason: Why no test needs to notice.
        kind: Whether it changes nothing that can be seen, or something that is not worth a test.
        becomes: What the line changes to; empty for every change of this kind.
    """

    module: str
    operator: str
    code: str
    reason: str
    kind: Literal["equivalent", "accepted"]
    becomes: str = ""

    def matches(self, mutant: Mutant, source: str) -> bool:
        """Tell whether this is about a mutant."""
        if (mutant.module, mutant.operator) != (self.module, self.operator):
            return False
        return mutant.code(source) == self.code and self.becomes in {"", mutant.becomes(source)}


class _File(msgspec.Struct, forbid_unknown_fields=True):
    mutant: list[AcceptedMutant] = []


def entries(file: Path = FILE) -> list[AcceptedMutant]:
    """Return the list."""
    return msgspec.convert(tomllib.loads(file.read_text("utf-8")), _File).mutant


def without(mutants: Iterable[Mutant], sources: Mapping[str, str], listed: Iterable[AcceptedMutant]) -> list[Mutant]:
    """Return the mutants that are not on the list.

    Raises:
        LookupError: An entry matches nothing: its code has changed, so its reason must be looked at again.
    """
    left, unused = list(mutants), list[AcceptedMutant]()
    for entry in listed:
        kept = [mutant for mutant in left if not entry.matches(mutant, sources[mutant.module])]
        if len(kept) == len(left):
            unused.append(entry)
        left = kept
    if unused:
        told = "\n".join(f"  {entry.module}: {entry.operator}: {entry.code}" for entry in unused)
        raise LookupError(f"the list of accepted mutants matches nothing that is still there:\n{told}")
    return left
