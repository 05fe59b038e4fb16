"""Keeps the tables in docs/metrics.md equal to the metrics: `python -m tests.metrics_page` writes them."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.observability.metrics import DESCRIPTIONS, Label
from gateway.store.refusals import KINDS

__all__ = ["LABELS", "PAGE", "written"]

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
_TABLES = {
    name: re.compile(rf"(?<=<!-- {name} -->\n).*(?=<!-- /{name} -->)", re.DOTALL) for name in ("metrics", "labels")
}
_ELSEWHERE: Final = {("gateway_redis_errors_total", "kind"): Label(KINDS)}
"""Labels whose values another package knows, which `metrics` does not import."""

LABELS: Final = {
    (metric.name, name): _ELSEWHERE.get((metric.name, name), label)
    for metric in DESCRIPTIONS
    for name, label in metric.labels.items()
}
"""What each label may hold, by the names of metric and label."""


def written() -> str:
    """Return the page with the tables as they have to be."""
    page = PAGE.read_text()
    for name, lines in (("metrics", _metrics()), ("labels", _labels())):
        table = "".join(f"{line}\n" for line in lines)
        page = _TABLES[name].sub(lambda _, table=table: table, page)
    return page


def _metrics() -> Iterator[str]:
    for metric in DESCRIPTIONS:
        labels = ", ".join(f"`{name}`" for name in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |"


def _labels() -> Iterator[str]:
    for metric in DESCRIPTIONS:
        for name in metric.labels:
            label = LABELS[metric.name, name]
            values = [f"`{value}`" for value in label.values] + [label.others] * bool(label.others)
            yield f"| `{metric.name}` | `{name}` | {', '.join(values[:-1])}{' or ' * (len(values) > 1)}{values[-1]} |"


if __name__ == "__main__":
    PAGE.write_text(written())
    sys.exit(0)
