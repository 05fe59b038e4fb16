"""The code under test with some of its text changed, in memory."""

import types
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import cast

from gateway.coordinator.scripts import load_script
from gateway.recordings import Leader


def scripts(changes: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, str]:
    """Return scripts with some of their text replaced; fail where the text is not there."""
    return {name: _replace(f"{name}.lua", load_script(name).text, pairs) for name, pairs in changes.items()}


def leader(*replacements: tuple[str, str]) -> type[Leader]:
    """Return the leader with some of its text replaced; fail where the text is not there."""
    text = resources.files("gateway.recordings").joinpath("leader.py").read_text(encoding="utf-8")
    module = types.ModuleType("gateway.recordings.leader")
    exec(compile(_replace("leader.py", text, replacements), "changed leader.py", "exec"), module.__dict__)
    return cast("type[Leader]", module.__dict__["Leader"])


def _replace(name: str, text: str, pairs: Sequence[tuple[str, str]]) -> str:
    for old, new in pairs:
        if old not in text:
            raise LookupError(f"{name} has changed; it no longer says: {old}")
        text = text.replace(old, new)
    return text
