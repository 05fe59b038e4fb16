"""What can go wrong in Python: the usual operators, as replacements in a module's text."""

import ast
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Final

from tests.mutants.mutant import Mutant

__all__ = ["is_change", "mutants"]

_COMPARED: Final[Mapping[type[ast.cmpop], tuple[str, str]]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: (r"is\s+not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}  # fmt: skip
_COMPUTED: Final[Mapping[type[ast.operator], tuple[str, str]]] = {
    ast.Add: (r"\+", "-"), ast.Sub: ("-", "+"), ast.Mult: (r"\*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "+"), ast.Pow: (r"\*\*", "*"),
}  # fmt: skip
_TURNED: Final[Mapping[type[ast.cmpop], str]] = {ast.Lt: ">=", ast.LtE: ">", ast.Gt: "<=", ast.GtE: "<"}
_MOMENT: Final = re.compile(
    r"\b(?:now|now_ms|moment|clock|_clock|monotonic|time|begun|deadline|give_up|until|silence)\b|_(?:at|until)\b"
)
"""No test meets the very instant: a comparison of moments is turned round."""
_OPPOSITE: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
_TOKEN: Final = re.compile(r"[\w.:/@#-]{1,40}")
"""A string that a program reads. Others are prose, which is no behaviour."""
_LOGS: Final = frozenset({"_log", "log", "logger"})
_TYPING: Final = frozenset({"cast", "TypeVar", "NewType", "field"})
_PROSE: Final = frozenset(
    {"description", "summary", "title", "example", "examples", "help", "metavar", "tags", "encoding"}
)
_SIZES: Final = frozenset({"maxsize"})
_NAMES: Final = frozenset({"__all__", "_log"})


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, each once. Some may not compile, or be the same to Python: see `is_change`."""
    seen: set[tuple[int, int, str]] = set()
    for mutant in _Operators(module, source).of(ast.parse(source)):
        place = (mutant.start, mutant.end, mutant.text)
        if place not in seen:
            seen.add(place)
            yield mutant


def is_change(mutant: Mutant, source: str) -> bool:
    """Tell whether a mutant compiles and differs."""
    try:
        return ast.dump(ast.parse(mutant.applied(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


class _Operators:
    """All operators over one module."""

    def __init__(self, module: str, source: str) -> None:
        self._module = module
        self._source = source
        self._statement: ast.stmt | None = None
        self._fields: set[ast.stmt] = set()
        """Of the classes that were met: their defaults are those of parameters."""
        self._lines = [0]
        """Where each line begins. The tree counts columns in bytes, which is the same where a line is ASCII."""
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def of(self, node: ast.AST) -> Iterator[Mutant]:
        """Yield the mutants of a node and of all that is in it."""
        if _is_no_behaviour(node):
            return
        outer = self._statement
        if isinstance(node, ast.stmt):
            self._statement = node
        if isinstance(node, ast.ClassDef):
            self._fields |= {field for field in node.body if isinstance(field, ast.AnnAssign)}
        match node:
            case ast.expr():
                yield from self._expression(node)
            case ast.stmt():
                yield from self._statements(node)
            case ast.comprehension(ifs=conditions):
                for condition in conditions:
                    yield from self._negated(condition)
            case _:
                pass
        for child in _behaving(node):
            yield from self.of(child)
        self._statement = outer

    # --- statements ----------------------------------------------------------------------------------------------

    def _statements(self, node: ast.stmt) -> Iterator[Mutant]:
        match node:
            case ast.If(test=test) | ast.While(test=test):
                yield from self._negated(test)
            case ast.Break():
                yield self._change("loop", node, "continue")
            case ast.Continue():
                yield self._change("loop", node, "break")
            # What asks for the truth of None finds it false.
            case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and not value.value):
                yield self._change("return", node, "return None")
            case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Delete() | ast.Raise():
                yield self._change("statement", node, "pass")
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield self._change("statement", node, "pass")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from self._function(node)
            case _:
                pass

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Mutant]:
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call):
                yield from self._arguments(decorator, "decorator")
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if isinstance(default, ast.Constant) and not _is_size(default):
                yield from self._constant(default, "default")
        returns = any(isinstance(inner, ast.Return) and inner.value for inner in ast.walk(node))
        body = node.body[1:] if _is_text(node.body[0]) else node.body
        if (
            body
            and not returns
            and not isinstance(body[0], ast.Nonlocal | ast.Global)
            and (len(body) > 1 or not isinstance(body[0], ast.Expr | ast.Pass | ast.Raise))
        ):
            start, _ = self._span(body[0])
            self._statement = body[0]
            yield self._at("early return", start, start, f"return\n{' ' * body[0].col_offset}", body[0])
            self._statement = node

    # --- expressions ---------------------------------------------------------------------------------------------

    def _expression(self, node: ast.expr) -> Iterator[Mutant]:
        match node:
            case ast.Compare(left=left, ops=operators, comparators=comparators):
                for before, operator, after in zip((left, *comparators), operators, comparators, strict=False):
                    old, new = _COMPARED[type(operator)]
                    if _MOMENT.search(self._text(node)):
                        new = _TURNED.get(type(operator), new)
                    yield from self._between("comparison", before, after, old, new)
            case ast.BoolOp(op=operator, values=values):
                yield from self._boolean(node, operator, values)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _COMPUTED:
                size = self._is_bound() and isinstance(right, ast.Constant)
                if not size and not any(_is_string(side) or _is_jitter(side) for side in (left, right)):
                    yield from self._between("arithmetic", left, right, *_COMPUTED[type(operator)])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield self._change("not", node, self._text(operand))
            case ast.IfExp(test=test):
                yield from self._negated(test)
            case ast.Constant() if not (self._is_bound() and _is_size(node)):
                yield from self._constant(node, "constant")
            case ast.Call():
                yield from self._arguments(node, "argument")
                if isinstance(node.func, ast.Name) and node.func.id in _OPPOSITE:
                    yield self._change("function", node.func, _OPPOSITE[node.func.id])
            case _:
                pass

    def _boolean(self, node: ast.BoolOp, operator: ast.boolop, values: list[ast.expr]) -> Iterator[Mutant]:
        old, new = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
        for before, after in itertools.pairwise(values):
            yield from self._between("boolean", before, after, old, new)
        for left_out in values:
            rest = [self._text(value) for value in values if value is not left_out]
            yield self._change("operand", node, f"({f' {old} '.join(rest)})")

    def _negated(self, condition: ast.expr) -> Iterator[Mutant]:
        if not isinstance(condition, ast.UnaryOp | ast.Compare):
            yield self._change("condition", condition, f"(not ({self._text(condition)}))")

    def _constant(self, node: ast.Constant, operator: str) -> Iterator[Mutant]:
        match node.value:
            case bool():
                yield self._change(operator, node, str(not node.value))
            case int():
                # A bound of 8,193 for 8,192 is no mistake that anybody makes.
                yield self._change(operator, node, str(node.value + 1 if node.value < 10 else node.value * 10))
            case float():
                yield self._change(operator, node, str(node.value * 3 or 1.0))
            case str() if _TOKEN.fullmatch(node.value) and self._text(node)[:1] in {'"', "'"}:
                yield self._change(operator, node, f'"{node.value}-mutated"')
            case _:
                pass

    def _arguments(self, node: ast.Call, operator: str) -> Iterator[Mutant]:
        commutes = isinstance(node.func, ast.Name) and node.func.id in _OPPOSITE
        simple = ast.Name | ast.Attribute | ast.Constant | ast.Call
        match node.args:
            case [first, second, *_] if isinstance(first, simple) and isinstance(second, simple) and not commutes:
                start, end = self._span(first)[0], self._span(second)[1]
                between = self._source[self._span(first)[1] : self._span(second)[0]]
                yield self._at(operator, start, end, f"{self._text(second)}{between}{self._text(first)}", node)
            case _:
                pass
        for keyword in node.keywords:
            if keyword.arg and not _is_prose(node, keyword):
                start, end = self._span(keyword)
                comma = re.match(r"\s*,", self._source[end:])
                yield self._at(operator, start, end + (comma.end() if comma else 0), "", keyword.value)

    def _is_bound(self) -> bool:
        """Tell whether the statement at hand names a constant outside of functions, or a field of a class."""
        if self._statement in self._fields:
            return True
        match self._statement:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                return name.isupper()
            case _:
                return False

    # --- texts ---------------------------------------------------------------------------------------------------

    def _offset(self, line: int, column: int) -> int:
        start = self._lines[line - 1]
        text = self._source[start : self._lines[line]]
        return start + (column if text.isascii() else len(text.encode()[:column].decode()))

    def _span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset)

    def _text(self, node: ast.expr) -> str:
        start, end = self._span(node)
        text = self._source[start:end]
        # An operand may have lost the parentheses that bound it.
        return f"({text})" if isinstance(node, ast.BoolOp | ast.IfExp | ast.NamedExpr | ast.Lambda) else text

    def _between(self, operator: str, before: ast.expr, after: ast.expr, old: str, new: str) -> Iterator[Mutant]:
        start, end = self._span(before)[1], self._span(after)[0]
        word = rf"\b{old}\b" if old[0].isalpha() else old
        if found := re.search(word, self._source[start:end]):
            yield self._at(operator, start + found.start(), start + found.end(), new, before)

    def _change(self, operator: str, node: ast.expr | ast.stmt, text: str) -> Mutant:
        return self._at(operator, *self._span(node), text, node)

    def _at(self, operator: str, start: int, end: int, text: str, node: ast.expr | ast.stmt) -> Mutant:
        first, last = node.lineno, node.end_lineno or node.lineno
        match self._statement:
            case None | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                pass
            case ast.stmt(lineno=begins, body=[ast.stmt(lineno=body), *_]):
                # Of a compound statement only its head belongs to what changes.
                first, last = begins, max(begins, body - 1)
            case statement:
                first, last = statement.lineno, statement.end_lineno or last
        return Mutant(self._module, operator, start, end, text, first, max(first, last))


def _behaving(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node that are behaviour: no annotations, no texts."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from node.body
        case ast.ClassDef():
            yield from node.body
        case ast.AnnAssign(value=value):
            if value is not None:
                yield value
        case ast.Call(func=ast.Name(id=name)) if name in _TYPING:
            yield from node.args[1:]
        case ast.Call():
            yield from (node.func, *node.args)
            yield from (keyword.value for keyword in node.keywords if not _is_prose(node, keyword))
        case ast.Raise(exc=ast.Call(args=[ast.Constant() | ast.JoinedStr(), *_]) as call):
            # What an exception says is prose; what else it carries is not.
            yield from (*call.args[1:], *(keyword.value for keyword in call.keywords))
        case ast.JoinedStr():
            yield from (part for part in node.values if isinstance(part, ast.FormattedValue))
        case ast.FormattedValue(value=value):
            yield value
        case _:
            yield from ast.iter_child_nodes(node)


def _is_no_behaviour(node: ast.AST) -> bool:  # noqa: PLR0911 - a table
    match node:
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Call() if _is_jitter(node):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))):
            return name in _LOGS
        case ast.FunctionDef(name=name):
            overload = any(isinstance(part, ast.Name) and part.id == "overload" for part in node.decorator_list)
            return name == "__repr__" or overload
        case ast.ClassDef(bases=bases):
            return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in bases)
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name in _NAMES
        case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            return True
        case ast.Import() | ast.ImportFrom() | ast.Assert():
            return True
        case ast.If(body=body, orelse=[]):
            return all(map(_is_no_behaviour, body))
        case _:
            return False


def _is_size(node: ast.Constant) -> bool:
    """Tell whether a constant says how much: 0 and 1 say whether."""
    return type(node.value) in {int, float} and node.value not in {0, 1}


def _is_jitter(node: ast.AST) -> bool:
    """Tell whether something is only there to differ."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="random"), attr="uniform" | "randint")):
            return True
        case _:
            return False


def _is_prose(call: ast.Call, keyword: ast.keyword) -> bool:
    """Tell whether an argument is read by people: a text, a task's or thread's name, a cache's size."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    return keyword.arg in _PROSE | _SIZES or (keyword.arg == "name" and name in {"create_task", "Thread"})


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
