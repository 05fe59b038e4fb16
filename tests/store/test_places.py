"""How places are shared: by holders, and by those within them."""

import pytest

from gateway.errors import TooManyWaiting
from gateway.store.places import Places


def refused(places: Places, **holders: str) -> str | None:
    """Take a place; return the bound that refuses it, None where it was had."""
    try:
        places.take(**holders)
    except TooManyWaiting as error:
        return error.extensions["bound"]
    return None


def test_holder_that_leaves_a_place_can_take_another() -> None:
    """One gets no more places than are free; what it has left counts as free, and no more as its own."""
    places = Places("connections", 4, "")
    assert [refused(places, address="a") for _ in range(3)] == [None, None, "connections-per-address"]
    places.leave(address="a")
    assert refused(places, address="b") is None
    assert refused(places, address="a") is None
    assert (places.taken, refused(places, address="a")) == (3, "connections-per-address")
    assert refused(places, address="c") is None
    assert refused(places, address="d") == "connections"


@pytest.mark.parametrize("holders", [{}, {"room": "r"}, {"room": "r", "caller": "c"}])
def test_places_that_are_left_are_free_again(holders: dict[str, str]) -> None:
    """However often they are taken and left, as many can be had as at first."""
    places = Places("waiting", 8, "")

    def take_all() -> int:
        taken = 0
        while refused(places, **holders) is None:
            taken += 1
        return taken

    first = take_all()
    for _ in range(2):
        for _ in range(first):
            places.leave(**holders)
        assert places.taken == 0
        assert take_all() == first > 0
