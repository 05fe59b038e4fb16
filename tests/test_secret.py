"""Which secrets are masked in logs: all that are in use, and the latest that were."""

import itertools
import secrets
from collections.abc import Callable
from pathlib import Path

from gateway.observability.logs import redact
from gateway.secrets import Secret, SecretFile, known_secrets
from gateway.videosdk.tokens import MintedTokens

MANY = 1_000
"""More than are remembered of those that were replaced."""
BOUND = 100
"""At most so many of them are."""


def opaque() -> str:
    """Make a text that nothing but its being known gives away."""
    return f"zr4{secrets.token_hex(16)}"


def masked(text: str) -> bool:
    """Tell whether a text is masked in the middle of other words."""
    return text not in str(redact(None, "info", {"event": f"could not use {text} here"}))


def test_token_renewed_without_end_leaves_secrets_in_use_masked() -> None:
    """VideoSDK refuses every token: the project's own secret is masked after a thousand of them as it was before."""
    project, other = Secret(opaque()), Secret(opaque())
    seconds = itertools.count(1_700_000_000)
    tokens = MintedTokens(opaque(), project, clock=lambda: next(seconds))
    before = len(known_secrets())
    for _ in range(MANY):
        assert tokens.renew()
    assert masked(project.reveal())
    assert masked(other.reveal())
    assert tokens.current() in known_secrets()
    assert len(known_secrets()) <= before + BOUND


def test_secret_replaced_without_end_leaves_others_masked(tmp_path: Path) -> None:
    """A file that is rotated for years, and a secret that never is: both are masked, the former ones not all."""
    kept, first = Secret(opaque()), Secret(opaque())
    file, seconds = tmp_path / "secret", itertools.count(step=10)
    file.write_text(first.reveal())
    mounted = SecretFile(file, first, lambda: next(seconds))
    del first
    before = len(known_secrets())
    texts: list[str] = []
    for _ in range(MANY // 5):
        texts.append(opaque())
        new = file.with_suffix(".new")
        new.write_text(texts[-1])
        new.rename(file)
        assert mounted().reveal() == texts[-1]
    assert masked(kept.reveal())
    assert masked(texts[-1])
    assert masked(texts[-2]), "a message that is still under way may hold the one before"
    assert not masked(texts[0])
    assert len(known_secrets()) <= before + BOUND


def test_secret_held_twice_is_masked_until_both_are_gone() -> None:
    """The same text in two places is in use as long as one of them is; afterwards it is among the former ones."""
    text = opaque()
    one, two = Secret(text), Secret(text)
    del one
    forget_former_ones(opaque)
    assert masked(text)
    assert two.reveal() == text
    del two
    assert masked(text)
    forget_former_ones(opaque)
    assert not masked(text)


def forget_former_ones(make: Callable[[], str]) -> None:
    """Replace so many that none of those before is remembered."""
    for _ in range(BOUND):
        Secret(make())
