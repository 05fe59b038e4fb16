"""Reads the table of problems in docs/callers.md, which tests hold to the code and to the contract."""

import re
from pathlib import Path

__all__ = ["rows"]

_PAGE = Path(__file__).parents[1] / "docs" / "callers.md"
_ROW = re.compile(r"^\| `([a-z-]+)` \| (\d+) \| (yes|no|with `Retry-After`) \| .+ \|$", re.MULTILINE)


def rows() -> list[tuple[str, str, str]]:
    """Return of each problem its slug, its status, and whether the same request is to be repeated."""
    table = _PAGE.read_text("utf-8").split("<!-- problems -->\n")[1].split("<!-- /problems -->")[0]
    found = _ROW.findall(table)
    assert len(found) == len(table.splitlines()), "a row has another form"
    return found
