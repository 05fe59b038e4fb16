"""The code under test with some of its rules broken, in memory."""

import types
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import cast

from gateway.coordinator.scripts import load_script
from gateway.recordings import Leader
from tests.mutants.rules import Change, broken


def scripts(changes: Mapping[str, Sequence[Change]]) -> dict[str, str]:
    """Return scripts with some of their rules, or of the prelude's, broken; fail where there is no such rule."""
    return {name: broken(f"{name}.lua", load_script(name).text, all_of) for name, all_of in changes.items()}


def leader(*changes: Change) -> type[Leader]:
    """Return the leader with some of its rules broken; fail where there is no such rule."""
    text = resources.files("gateway.recordings").joinpath("leader.py").read_text(encoding="utf-8")
    module = types.ModuleType("gateway.recordings.leader")
    exec(compile(broken("leader.py", text, changes), "changed leader.py", "exec"), module.__dict__)
    return cast("type[Leader]", module.__dict__["Leader"])
