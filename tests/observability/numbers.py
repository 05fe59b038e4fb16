"""What `/metrics` says, as numbers that a test can subtract."""

from collections import Counter as Sums
from collections.abc import Mapping

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

Series = tuple[str, frozenset[tuple[str, str]]]


class Numbers:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families: list[Metric] = list(text_string_to_metric_families(text))
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    @property
    def series(self) -> frozenset[Series]:
        """Every series there is."""
        return frozenset(self._values)

    def get(self, name: str, **labels: str) -> float | None:
        """Return a value, None where there is no such series."""
        return self._values.get((f"gateway_{name}", frozenset(labels.items())))

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over all series that have these labels."""
        asked = set(labels.items())
        return sum(value for (of, has), value in self._values.items() if of == f"gateway_{name}" and asked <= has)

    def since(self, before: "Numbers") -> Mapping[Series, float]:
        """Return by how much each series has grown."""
        grown: Sums[Series] = Sums()
        for series, value in self._values.items():
            if difference := value - before._values.get(series, 0.0):
                grown[series] = difference  # pyright: ignore[reportArgumentType]
        return grown


async def scrape(gateway: httpx.AsyncClient) -> Numbers:
    """Ask as a Prometheus does: without saying who it is."""
    answer = await gateway.get("/metrics", headers={"authorization": ""})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Numbers(answer.text)
