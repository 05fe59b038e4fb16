"""What mutants there are: of Python, of Lua, and those that need not be killed."""

from pathlib import Path

import pytest

from tests.mutants import lua, python
from tests.mutants.accepted import entries, without
from tests.mutants.mutant import Mutant
from tests.mutants.run import every
from tests.mutants.tree import Project

ROOT = Path(__file__).parents[2]


def _changes(of: list[Mutant], source: str, operator: str) -> set[str]:
    return {mutant.becomes(source) for mutant in of if mutant.operator == operator}


@pytest.mark.parametrize(
    ("source", "operator", "becomes"),
    [
        ("x = a < b", "comparison", {"x = a <= b"}),
        ("x = clock() - seen < 5", "comparison", {"x = clock() - seen >= 5"}),
        ("x = a not in b", "comparison", {"x = a in b"}),
        ("x = a and b", "boolean", {"x = a or b"}),
        ("x = a and b", "operand", {"x = (a)", "x = (b)"}),
        ("x = a + 1", "arithmetic", {"x = a - 1"}),
        ("x = 'a' + b", "arithmetic", set[str]()),
        ("x = not a", "not", {"x = a"}),
        ("x = 'zoë', 9 > 8", "comparison", {"x = 'zoë', 9 >= 8"}),
        ("x = 1, 60, True, 0.5", "constant", {
            "x = 2, 60, True, 0.5", "x = 1, 600, True, 0.5", "x = 1, 60, False, 0.5", "x = 1, 60, True, 1.5",
        }),
        ("if a: b()", "condition", {"if (not (a)): b()"}),
        ("if a: b()", "statement", {"if a: pass"}),
        ("async def f(): await a.b()", "statement", {"async def f(): pass"}),
        ("x.y = 1", "statement", {"pass"}),
        ("x = f(a, b, c=1)", "argument", {"x = f(b, a, c=1)", "x = f(a, b, )"}),
        ("x = min(a)", "function", {"x = max(a)"}),
        ("x = min(a, b)", "argument", set[str]()),
        ("x = a.read_text(encoding='utf-8')", "argument", set[str]()),
        ("for x in a:\n    break", "loop", {"continue"}),
        ("def f(a=True): return a", "default", {"def f(a=False): return a"}),
        ("def f(a=1, b=64, c=0.5): return a", "default", {"def f(a=2, b=64, c=0.5): return a"}),
        ("MAX_A: Final = 64", "constant", set[str]()),
        ("MAX_A: Final = 64 * 1024", "arithmetic", set[str]()),
        ("class A:\n    size: int = 64\n    some: int = 1", "constant", {"some: int = 2"}),
        ("IS_A: Final = True", "constant", {"IS_A: Final = False"}),
        ("def f(a=True): return a", "return", {"def f(a=True): return None"}),
        ("def f(a):\n    a.b = 1\n    a.c = 2", "early return", {"return a.b = 1"}),
        ("@lru_cache(maxsize=512)\ndef f(): return 1", "decorator", set[str]()),
        ("@get('/x', sync=False)\ndef f(): return 1", "decorator", {"@get('/x', )"}),
    ],
)  # fmt: skip
def test_python_operator_makes_its_changes_and_no_other(source: str, operator: str, becomes: set[str]) -> None:
    """Each operator changes what it is about."""
    made = list(python.mutants("x.py", source))
    assert _changes(made, source, operator) == becomes
    assert all(python.is_change(mutant, source) for mutant in made)


@pytest.mark.parametrize(
    "source",
    [
        '"""A text."""',
        "x: dict[str, 'Path']",
        "def f(a: 'int') -> 'str': ...",
        "_log.info('happened', count=1)",
        "class A:\n    def __repr__(self): return 'a'",
        "if TYPE_CHECKING:\n    x = 1",
        "if a:\n    _log.info('happened')",
        "x = f(description='text')",
        "x = a * random.uniform(0.5, 1)",
        "x = asyncio.create_task(name='a')",
        "from a import b",
        "assert a is not None",
        "x = 'A sentence is no behaviour.'",
    ],
)
def test_python_without_behaviour_has_no_mutants(source: str) -> None:
    """Texts, annotations, log lines and what only a type checker is told are left alone."""
    of_the_call = {"argument"}
    assert [mutant for mutant in python.mutants("x.py", source) if mutant.operator not in of_the_call] == []


@pytest.mark.parametrize(
    ("source", "operator", "becomes"),
    [
        ("if a < b then c() end -- a > b", "comparison", {"if a <= b then c() end -- a > b"}),
        ("local a = now > b -- now", "comparison", {"local a = now <= b -- now"}),
        ("x = a and b", "boolean", {"x = a or b"}),
        ("x = a - 1", "arithmetic", {"x = a + 1"}),
        ("x = f(-1)", "arithmetic", set[str]()),
        ("x = not a", "not", {"x = a"}),
        ("x = 'stop', 1", "constant", {"x = 'stop_mutated', 1", "x = 'stop', 2"}),
        ("x = math.max(a, b)", "function", {"x = math.min(a, b)"}),
        ("if a then b = 1 end", "condition", {"if not (a) then b = 1 end"}),
        ("if a then b = 1 end", "statement", {""}),
        ("schedule(now, a.ttl)", "statement", {""}),
        ("changes.state = 'x' -- as it is", "statement", {"-- as it is"}),
    ],
)
def test_lua_operator_makes_its_changes_and_no_other(source: str, operator: str, becomes: set[str]) -> None:
    """Each operator changes what it is about, and no comment."""
    assert _changes(list(lua.mutants("x.lua", source)), source, operator) == becomes


def test_accepted_mutant_is_left_out_as_long_as_its_code_stands(tmp_path: Path) -> None:
    """An entry takes away its mutants, and fails once it matches nothing."""
    listed = tmp_path / "accepted.toml"
    listed.write_text(
        "[[mutant]]\nmodule = 'x.py'\noperator = 'constant'\ncode = 'x = 1, 2'\nbecomes = 'x = 1, 3'\n"
        "kind = 'equivalent'\nreason = 'nothing reads it'\n"
    )
    before, after = "x = 1, 2\n", "x = 2, 2\n"

    left = without(python.mutants("x.py", before), {"x.py": before}, entries(listed))

    assert [mutant.becomes(before) for mutant in left] == ["x = 2, 2"]
    with pytest.raises(LookupError, match="x = 1, 2"):
        without(python.mutants("x.py", after), {"x.py": after}, entries(listed))


def test_every_accepted_mutant_is_still_there() -> None:
    """No entry of the list outlives its code, and each has a reason."""
    sources, listed = Project(ROOT).sources(), entries()
    without(every(sources), sources, listed)
    assert all(len(entry.reason) > 10 for entry in listed)
