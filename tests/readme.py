"""Keeps the README's table of settings equal to the settings: `python -m tests.readme` writes it anew."""

import re
import sys
from pathlib import Path

from gateway.settings.table import SETTINGS

README = Path(__file__).parents[1] / "README.md"
_TABLE = re.compile(r"(?<=<!-- settings -->\n).*(?=<!-- /settings -->)", re.DOTALL)


def written() -> str:
    """Return the README with the table as it has to be."""
    rows: list[str] = []
    for setting in SETTINGS:
        name = f"`{setting.variable}`" + (", `…_FILE`" if setting.has_file else "")
        default = "required" if setting.required else f"`{setting.default}`" if setting.default else ""
        rows.append(f"| {name} | {default} | {setting.doc} |\n")
    return _TABLE.sub(lambda _: "".join(rows), README.read_text())


if __name__ == "__main__":
    README.write_text(written())
    sys.exit(0)
