"""What is passed on may be passed on, and is listed."""

import re
from pathlib import Path

from gateway import __version__
from tests.image.inventory import ALLOWED, LICENCES, licences, licences_page, sbom
from tests.image.production import PROJECT


def test_inventory_is_complete_and_its_licences_are_allowed(environment: Path) -> None:
    """It names each installed package once, with the version of the lock file, and the gateway with its own.

    No package is without a known licence, none asks something of the rest of the program, and the page is current.
    """
    # Both in one test: making the bill, and checking it against its schema, takes a while.
    bill = sbom(environment)
    known = licences(bill, environment)
    for name, (_, licence) in known.items():
        # With OR one of them must do, with AND all.
        assert any(set(re.split(r" AND ", choice)) <= ALLOWED for choice in licence.split(" OR ")), (name, licence)
    assert LICENCES.read_text() == licences_page(known), "run `make licences` and commit it"

    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["version"] == __version__
    listed = {part["name"].lower().replace("_", "-"): part["version"] for part in bill["components"]}
    installed = {
        path.name.removesuffix(".dist-info").rpartition("-") for path in environment.glob("lib/*/*/*.dist-info")
    }
    assert listed.keys() | {"recording-gateway"} == {name.lower().replace("_", "-") for name, _, _ in installed}
    lock = (PROJECT / "uv.lock").read_text()
    for name, version in listed.items():
        assert f'name = "{name}"\nversion = "{version}"' in lock or name == "recording-gateway"


def test_version_is_written_in_one_place() -> None:
    """Only the package says it; the changelog begins with what is not released yet, or with it."""
    told = [
        path.relative_to(PROJECT).as_posix()
        for path in (PROJECT / "pyproject.toml", PROJECT / "Dockerfile", *PROJECT.glob("gateway/**/*.py"))
        if f'"{__version__}"' in path.read_text()
    ]
    assert told == ["gateway/__init__.py"]
    headings = re.findall(r"^## (.+)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0].startswith(__version__)
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
