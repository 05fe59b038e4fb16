"""What the tables of tokens say, together with the tokens; and who may stop whose recording."""

from pathlib import Path

import pytest

from gateway.auth.api_keys import Caller, Callers, Sort
from gateway.auth.policy import JOIN_TOKENS, Policy, PolicyError, Scope, check
from gateway.errors import Forbidden
from gateway.recordings import Kind, Mode, Target

ADA = Target(Mode.TRACK, "r1", "ada", Kind.VIDEO)


def refused(policy: Policy, folder: str | None = None) -> str | None:
    """Return the rule that refuses a start, None where it passes."""
    try:
        check(policy, Scope.START, ADA, None, folder)
    except Forbidden as error:
        return str(error.extensions["rule"])
    return None


@pytest.mark.parametrize(
    ("table", "token", "both"),
    [
        (None, None, None),
        (None, ("a",), ("a",)),
        (("a",), None, ("a",)),
        (("a", "b"), ("b", "c"), ("b",)),
        (("a*",), ("ab", "b"), ("ab",)),
        (("ab",), ("a*",), ("ab",)),
        (("a*",), ("ab*",), ("ab*",)),
        (("ab*",), ("a*", "*"), ("ab*",)),
        (("a*",), ("b*",), ()),
        (("a\\*",), ("a*",), ("a\\*",)),
        (("a\\*",), ("ab",), ()),
        (("*",), (), ()),
        ((), None, ()),
    ],
)
def test_policy_narrowed_by_a_token_allows_what_both_do(
    table: tuple[str, ...] | None, token: tuple[str, ...] | None, both: tuple[str, ...] | None
) -> None:
    """Of two patterns that overlap the narrower one is left, in either order, for rooms and participants."""
    narrowed = Policy(rooms=table, participants=token).narrowed(Policy(rooms=token, participants=table))
    assert narrowed.rooms == both
    assert set(narrowed.participants or ()) == set(both or ())
    assert (narrowed.participants is None) is (both is None)


def test_policy_narrowed_by_a_token_keeps_the_rest_of_the_table() -> None:
    """Scopes are those that both have; hosts, folders and kinds are the table's."""
    table = Policy(scopes=frozenset({Scope.START, Scope.READ}), webhook_hosts=("a.example",), bucket_dir_prefix="x")
    narrowed = table.narrowed(Policy(scopes=frozenset({Scope.READ, Scope.ADMIN})))
    assert narrowed.scopes == {Scope.READ}
    assert (narrowed.webhook_hosts, narrowed.bucket_dir_prefix) == (("a.example",), "x")


@pytest.mark.parametrize(
    ("prefix", "room", "participant", "folder", "rule"),
    [
        ("{roomId}/{participantId}", "r1", "ada", "r1/ada/1", None),
        ("{roomId}/{participantId}", "r1", "ada", "r1/ben", "bucket-prefix"),
        ("x-{roomId}", "r1", None, "x-r1", None),
        ("{roomId}", None, "ada", "{roomId}/1", "scope"),
        ("{roomId}/{participantId}", "r1", None, "r1/1", "scope"),
        # Its room is called like the placeholder of its participant: nothing is put in twice.
        ("{roomId}/x", "{participantId}", "ada", "ada/x", "bucket-prefix"),
        ("{roomId}/x", "{participantId}", "ada", "{participantId}/x", None),
        ("plain", None, None, "plain/1", None),
    ],
)
def test_policy_folder_holds_the_tokens_own_ids(
    prefix: str, room: str | None, participant: str | None, folder: str, rule: str | None
) -> None:
    """Where a token lacks an id that its folder needs, it may not start."""
    policy = Policy.from_table({"bucket_dir_prefix": prefix}, JOIN_TOKENS, placeholders=True)
    assert refused(policy.filled(room, participant), folder) == rule


def test_policy_without_folders_starts_without_one() -> None:
    """No path will do, and none is needed; the table of join tokens gets one with its `bucket_dir_prefix`."""
    assert refused(JOIN_TOKENS, "a") == "folder"
    assert refused(JOIN_TOKENS) is None
    assert refused(Policy.from_table({"bucket_dir_path": False}), "a") == "folder"
    assert refused(Policy.from_table({"bucket_dir_prefix": "a"}, JOIN_TOKENS), "a/b") is None
    with pytest.raises(PolicyError, match=r"in .join_tokens. alone"):
        Policy.from_table({"bucket_dir_prefix": "{participantId}"})


@pytest.mark.parametrize(
    ("sort", "name", "starter", "may"),
    [
        (Sort.JOIN_TOKEN, "participant:ada", "participant:ada", True),
        (Sort.JOIN_TOKEN, "moderator:ben", "participant:ada", True),
        (Sort.JOIN_TOKEN, "participant:ada", "moderator:ben", True),
        (Sort.JOIN_TOKEN, "moderator:ben", "participant:ben", False),
        (Sort.JOIN_TOKEN, "participant:ada", "ada", False),
        (Sort.JOIN_TOKEN, "participant:ada", "jwt:participant:ada", False),
        (Sort.JOIN_TOKEN, "participant:ada", "jwt:moderator:ada", False),
        (Sort.JOIN_TOKEN, "participant:ada", None, False),
        (Sort.JWT, "jwt:ada", "jwt:ada", True),
        (Sort.JWT, "jwt:ada", "ada", False),
        (Sort.KEY, "ada", "ada", True),
        (Sort.KEY, "ada", "moderator:ada", False),
        (Sort.KEY, "ada", None, False),
    ],
)
def test_caller_who_may_stop_its_own_only(sort: Sort, name: str, starter: str | None, may: bool) -> None:
    """By the name of the caller who started: no caller of another sort can have one that passes for it."""
    own = Policy(stop_others=False)
    assert Caller(name, own, sort=sort).may_stop(ADA, starter) is may
    assert Caller(name, Policy(), sort=sort).may_stop(ADA, starter)


def test_callers_file_vouches_for_what_is_unchanged_in_it(tmp_path: Path) -> None:
    """A table has a name of its own, the same on every replica and reading, until what it allows changes."""
    file = tmp_path / "callers.toml"
    jwt = '[jwt]\nscopes = ["recordings:read", "recordings:stop"]\n'
    file.write_text(jwt)
    first, again = Callers.load(file), Callers.load(file)
    for sort in (Sort.JWT, Sort.JOIN_TOKEN):
        assert first.vouches(again.tables[sort].grant)
    file.write_text(f"{jwt}kinds = []\n")
    changed = Callers.load(file)
    assert not changed.vouches(first.tables[Sort.JWT].grant)
    assert changed.vouches(first.tables[Sort.JOIN_TOKEN].grant)
