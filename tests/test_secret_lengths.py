"""From which length on a text is held as a secret, and that every one that is held is let go."""

import gc
import secrets

import pytest

from gateway.secrets import Secret, known_secrets


@pytest.mark.parametrize(("length", "held"), [(7, False), (8, True), (9, True)])
def test_secret_of_a_length_is_held_while_in_use_and_bounded_after(length: int, held: bool) -> None:
    """Shorter texts would mask ordinary words; those that are held are forgotten when enough came after them."""
    first = secrets.token_hex(8)[:length]
    kept = Secret(first)
    assert (first in known_secrets()) is held
    before = len(known_secrets())
    del kept
    for _ in range(1_000):
        Secret(secrets.token_hex(8)[:length])
    gc.collect()
    assert first not in known_secrets()
    assert len(known_secrets()) <= before + 100
