"""What a text says once everything that hides it is taken away."""

import pytest

from gateway.auth.canonical_text import unmasked


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a.b", "a.b"),
        ("a\ufe00b", "ab"),
        ("a\ufe07b", "ab"),
        ("a\ufe0fb", "ab"),
        ("a\ufe10b", "a,b"),
        ("a\u00adb", "ab"),
        ("a\u200bb", "ab"),
        ("\uff0e\uff0e", ".."),
        ("\u2025", ".."),
        ("\u00bd", "\u00bd"),
        ("zo\u00eb", "zo\u00eb"),
        ("%2e%2e", ".."),
        ("%252e", "."),
        ("%c0%ae", "."),
        ("%e0%80%ae", "."),
        ("%f0%80%80%ae", "."),
        ("&period;", "."),
    ],
)
def test_text_without_its_masks_is_what_a_reader_makes_of_it(text: str, plain: str) -> None:
    """Invisible signs go, look-alikes become what they look like, encodings are undone, however often."""
    assert unmasked(text) == plain
