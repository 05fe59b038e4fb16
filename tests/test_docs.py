"""The README and the pages below docs/ are true, as far as a machine can tell."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import metrics_page, settings_page
from tests.faults.rows import ROWS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def links(page: Path) -> Iterator[str]:
    """Yield what a page links to, but for other sites."""
    yield from re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_settings_page_is_up_to_date() -> None:
    """`make settings` writes the table, and nothing else changes it."""
    assert settings_page.PAGE.read_text() == settings_page.written(), "run `make settings`"


def test_metrics_page_is_up_to_date() -> None:
    """`make metrics` writes the tables, and nothing else changes them."""
    assert metrics_page.PAGE.read_text() == metrics_page.written(), "run `make metrics`"


def test_every_promise_names_a_test_that_exists() -> None:
    """The last column of the promises holds `file.py::test` names."""
    table = (ROOT / "docs" / "promises.md").read_text().split("<!-- promises -->")[1].split("<!-- /promises -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", row.rsplit("|", 2)[1])
        assert named, f"names no test: {row}"
        for file, test in named:
            text = (ROOT / "tests" / file).read_text()
            assert not test or f"def {test}(" in text, f"{file} has no {test}"


def test_fault_page_lists_every_row_of_the_matrix() -> None:
    """`tests/faults/README.md` has one line for each row, in order, with the row's own name."""
    table = (ROOT / "tests" / "faults" / "README.md").read_text().partition("## The rows")[2]
    listed = re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", table, re.MULTILINE)[1:]
    assert [(number, name) for number, name in listed if number != "---"] == [(row.number, row.name) for row in ROWS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    """Links between the pages, and to files of the repository, lead somewhere."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_everything_the_readme_links_to_is_in_the_package() -> None:
    """The README is also the package's page, so the source distribution holds what it links to."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    for link in links(README):
        assert link.partition("#")[0].partition("/")[0] in packed, link


def test_readme_fits_on_two_screens() -> None:
    """About 700 words, at most 1,000: the rest belongs below docs/."""
    assert len(README.read_text().split()) <= 1000


def test_code_map_is_the_packages_and_modules_of_the_gateway() -> None:
    """Each line of the map names what exists, and no package or module of `gateway/` is missing from it."""
    (drawn,) = re.findall(r"^gateway/\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    named = re.findall(r"^  ([\w.]+/?) ", drawn, re.MULTILINE)
    there = {path.name for path in (ROOT / "gateway").glob("*.py")} - {"__init__.py"}
    there |= {f"{path.parent.name}/" for path in (ROOT / "gateway").glob("*/*.py")}
    assert sorted(named) == sorted(there)
