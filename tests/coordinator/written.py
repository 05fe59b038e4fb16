"""Texts that tests compare with: blocks of lines, each under its name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["read", "write"]


def read(file: Path) -> dict[str, list[str]]:
    """Return the lines of each block by its name."""
    blocks = file.read_text("utf-8").strip().split("\n\n")
    return {head: rest for head, *rest in (block.split("\n") for block in blocks)}


def write(file: Path, blocks: Mapping[str, Sequence[str]]) -> None:
    """Write blocks."""
    file.write_text("\n\n".join("\n".join((name, *rest)) for name, rest in blocks.items()) + "\n", "utf-8")
