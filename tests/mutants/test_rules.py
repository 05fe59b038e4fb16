"""A rule is named in the source, and broken by its name."""

from pathlib import Path

import pytest

from tests.mutants.rules import Change, always, becomes, broken, drop, every_change, never, rules, value

GATEWAY = Path(__file__).parents[2] / "gateway"

LUA = """\
local fresh = r.confirmed > 0
  and now - r.confirmed <= a.trust -- rule: trust
local may = a.restore and not a.arm -- rule: restore
if -- rule: hand-over
  a.seen == r.done
then return 'done' end
if r.holder == a.attempt then wake(r) end -- rule: fence
"""
PYTHON = """\
def gate(lease, now):
    if not lease.lost:  # rule: lost
        in_time = now < lease.end  # rule: window
        lease.note(now)  # rule: note
    return in_time
"""


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        (drop("trust"), "and now - r.confirmed <= a.trust", ""),
        (value("restore", "false"), "a.restore and not a.arm", "false"),
        (never("hand-over"), "if -- rule: hand-over\n  a.seen == r.done\nthen", "if false then"),
        (always("fence"), "r.holder == a.attempt", "true"),
        (becomes("fence", "wake(r)"), "if r.holder == a.attempt then wake(r) end", "wake(r)"),
        (drop("fence"), "if r.holder == a.attempt then wake(r) end", ""),
    ],
)
def test_break_lua_rule_replaces_exactly_its_code(change: Change, old: str, new: str) -> None:
    """Each change of a rule in Lua touches what it is said to touch."""
    assert old in LUA
    assert broken("x.lua", LUA, [change]) == LUA.replace(old, new)


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        (never("lost"), "not lease.lost", "False"),
        (value("window", "True"), "now < lease.end", "True"),
        (drop("note"), "lease.note(now)", "pass"),
    ],
)
def test_break_python_rule_replaces_exactly_its_code(change: Change, old: str, new: str) -> None:
    """Each change of a rule in Python touches what it is said to touch."""
    assert broken("x.py", PYTHON, [change]).split() == PYTHON.replace(old, new).split()


@pytest.mark.parametrize("change", [never("gone"), value("fence", "0"), always("trust"), becomes("trust", "renamed")])
def test_break_rule_that_is_not_there_fails(change: Change) -> None:
    """A mutant that would mutate nothing, or names what the source has no more, is an error."""
    with pytest.raises(LookupError):
        broken("x.lua", LUA, [change])


def test_rules_named_twice_in_one_source_are_refused() -> None:
    """A name says which rule is meant."""
    with pytest.raises(LookupError, match="fence"):
        rules(f"{LUA}release() -- rule: fence\n")


def test_every_rule_of_the_gateway_can_be_broken() -> None:
    """Whatever rule a source names, `make mutants` can do something with it."""
    sources = [path for ending in ("lua", "py") for path in GATEWAY.rglob(f"*.{ending}")]
    named = [(path, text, rule.name) for path in sources for text in [path.read_text("utf-8")] for rule in rules(text)]
    assert len(named) > 20
    for path, text, name in named:
        changes = [change for change in every_change(path.name, text) if change.rule == name]
        assert changes, name
        assert all(broken(path.name, text, [change]) != text for change in changes)
