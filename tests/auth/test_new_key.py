"""The name of a new key's caller stands unquoted in a file: what would need quoting is refused."""

import tomllib

import pytest

from gateway.auth.api_keys import new_key


@pytest.mark.parametrize("name", ["a", "A-Z_09", "x" * 64])
def test_new_key_for_a_plain_name_is_an_entry_of_the_file(name: str) -> None:
    """The lines are TOML, and name the caller and the key's beginning."""
    key, lines = new_key(name)
    ((caller, entry),) = tomllib.loads(lines)["callers"].items()
    assert caller == name
    assert key.startswith(entry["keys"][0]["prefix"])


@pytest.mark.parametrize("name", ["", "x" * 65, "a.b", "a b", 'a"', "a]\n[callers.root", "zoë"])
def test_new_key_for_a_name_that_needs_quotes_is_refused(name: str) -> None:
    """Such a name could make a caller of another name valid."""
    with pytest.raises(ValueError, match="letters"):
        new_key(name)
