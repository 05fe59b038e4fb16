"""Keeps the table in docs/settings.md equal to the settings: `python -m tests.settings_page` writes it."""

import re
import sys
from pathlib import Path

from gateway.settings.table import SETTINGS

__all__ = ["PAGE", "written"]

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
_TABLE = re.compile(r"(?<=<!-- settings -->\n).*(?=<!-- /settings -->)", re.DOTALL)


def written() -> str:
    """Return the page with the table as it has to be."""
    rows: list[str] = []
    for setting in SETTINGS:
        name = f"`{setting.variable}`" + (", `…_FILE`" if setting.has_file else "")
        default = "required" if setting.required else f"`{setting.default}`" if setting.default else ""
        rows.append(f"| {name} | {default} | {setting.value_type.expected} | {setting.doc} |\n")
    return _TABLE.sub(lambda _: "".join(rows), PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(written())
    sys.exit(0)
