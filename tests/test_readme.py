"""The README tells the truth, as far as a machine can tell."""

import re

from tests import readme

ROOT = readme.README.parent


def test_the_table_of_settings_is_the_settings() -> None:
    """`make readme` writes it; this sees that somebody did."""
    assert readme.README.read_text() == readme.written(), "run `make readme`"


def test_every_promise_names_a_test_that_exists() -> None:
    """The last column of the promises holds `file.py::test` names."""
    table = readme.README.read_text().split("<!-- promises -->")[1].split("<!-- /promises -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", row.rsplit("|", 2)[1])
        assert named, f"names no test: {row}"
        for file, test in named:
            text = (ROOT / "tests" / file).read_text()
            assert not test or f"def {test}(" in text, f"{file} has no {test}"


def test_every_folder_it_names_exists() -> None:
    """Where to look is where it is."""
    for path in re.findall(r"^(gateway/[\w/.]+)", readme.README.read_text(), re.MULTILINE):
        assert (ROOT / path).exists(), path
