"""Who asks: keys, the file that makes them valid, and the answer to a caller without one."""

import codecs
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.auth.api_keys import Callers, CallersFile, CallersFileError, new_key
from gateway.auth.authenticator import Authenticator
from gateway.errors import Unauthenticated
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from tests import harness
from tests.api_client import START, STOP, ApiClient, NewTrack

KEY = f'{{ prefix = "gw_1", sha256 = "{"cd" * 32}" }}'
SHARED = {"app": "ab", "bot": "AB"}

CheckProblem = Callable[[httpx.Response, str], dict[str, Any]]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `gateway keys new` as a person would."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", "keys", "new", *arguments], capture_output=True, text=True, timeout=60
    )


def test_new_key_is_stored_as_its_hash(tmp_path: Path) -> None:
    """A new key's lines make it valid; they hold its hash and not the key; two keys are never the same."""
    key, entry = new_key("lesson-service")
    file = tmp_path / "callers.toml"
    file.write_text(entry)
    assert Callers.load(file).identify(key).name == "lesson-service"
    assert key not in entry
    assert key.split("_", 2)[2] not in entry
    assert key.startswith("gw_")
    assert len(key.split("_", 2)[2]) >= 43
    assert new_key("lesson-service")[0] != key


@pytest.mark.anyio
async def test_authentication_with_either_of_two_keys_finds_the_caller(tmp_path: Path) -> None:
    """Any key of a caller is that caller's, so that keys can be changed without a gap."""
    (old, first), (new, second), (other, third) = new_key("app"), new_key("app"), new_key("bot")
    hashes = [tomllib.loads(entry)["callers"]["app"]["keys"][0]["sha256"] for entry in (first, second)]
    file = tmp_path / "callers.toml"
    file.write_text(
        "[callers.app]\nkeys = [" + ", ".join(f'{{ sha256 = "{it}" }}' for it in hashes) + f"]\nscopes = []\n{third}"
    )
    callers = Authenticator(CallersFile(file))
    assert (await callers.identify(f"Bearer {old}")).name == "app"
    assert (await callers.identify(f"Bearer {new}")).name == "app"
    assert (await callers.identify(f"bearer   {other} ")).name == "bot"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic {key}",
        "{key}",
        "Token {key}",
        "Bearer {key}x",
        "Bearer {half}",
        "Bearer ä",
    ],
)
async def test_authentication_without_a_known_key_is_refused(tmp_path: Path, header: str | None) -> None:
    """No key, another scheme, half a key and a key with something behind it are refused in words without the key."""
    key, entry = new_key("app")
    file = tmp_path / "callers.toml"
    file.write_text(entry)
    given = header.format(key=key, half=key[: len(key) // 2]) if header else header
    with pytest.raises(Unauthenticated) as refused:
        await Authenticator(CallersFile(file)).identify(given)
    assert "gw_" not in refused.value.detail


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "names no caller"),
        ("callers = 1", "names no caller"),
        ("[callers]", "names no caller"),
        ("[callers.app", "callers.toml cannot be read: end of document: "),
        ("[callers.app]\n[callers.app]", "callers.toml cannot be read: line 2, column 13: Cannot declare … twice"),
        ("\n\n[callers.app]\nkeys = hunter2\n", "cannot be read: line 4, column 8: "),
        ('[callers.app]\n"hunter2" = 1\n"hunter2" = 1', "cannot be read: end of document: Cannot overwrite"),
        ("[callers.app]", "callers.toml, line 1: caller 'app': expected keys"),
        (
            f"# ours\n[callers.one]\nkeys = [{KEY}]\nscopes = []\n[callers.app]\n",
            "callers.toml, line 5: caller 'app': expected keys",
        ),
        ("[callers]\napp = 1", "expected keys"),
        (f"[callers.app]\nkeys = [{KEY}]\n", "line 1: caller 'app': scopes is missing"),
        ('[jwt]\nrooms = ["hunter2"]', "line 1: .jwt.: scopes is missing"),
        ("\n[join_tokens]\nkeys = []\nscopes = []", "line 2: .join_tokens.: 'keys' is not a key"),
        ("[join_tokens]\nscopes = []\nstarts_per_minute = -1", "starts_per_minute"),
        ('[jwt]\nscopes = []\nbucket_dir_prefix = "a/{roomId}"', "in .join_tokens. alone"),
        (f'[callers.app]\nkeys = [{KEY}]\nscopes = []\nbucket_dir_prefix = "{{roomId}}"', "in .join_tokens. alone"),
        (f"[callers.app]\nkeys = [{KEY}]\nscopes = []\n[join_token]\n", "'join_token' is none of callers, join_tokens"),
        ("[callers.app]\nkeys = []", "expected keys"),
        ('[callers.app]\nkeys = "gw_hunter2"', "expected keys"),
        ('[callers.app]\nkeys = ["gw_hunter2"]', "64 hexadecimal digits"),
        ('[callers.app]\nkeys = [{ prefix = "gw_1" }]', "64 hexadecimal digits"),
        ('[callers.app]\nkeys = [{ sha256 = "hunter2" }]', "64 hexadecimal digits"),
        (f'[callers.app]\nkeys = [{{ sha256 = "{"ab " * 21}a" }}]', "64 hexadecimal digits"),
        (f"[callers.app]\nkeys = [{', '.join([KEY] * 3)}]", "at most 2 keys"),
        (f"[callers.app]\nkeys = [{KEY}]\nscopes = 1", "'app': scopes must be a list"),
        (f"[callers.app]\nkeys = [{KEY}]\nwebhook_host = []", "'webhook_host' is not a key"),
        (f"[callers.app]\nkeys = [{KEY}]\nstarts_per_minute = true", "starts_per_minute"),
        (f"[callers.app]\nkeys = [{KEY}]\nstarts_per_minute = -1", "starts_per_minute"),
        (f'[callers."participant:ada"]\nkeys = [{KEY}]', "name is made of"),
        (f"[callers.app]\nkeys = [{KEY[:-2]}, expires = 2027-01-01 }}]", "expires"),
        (f"[callers.app]\nkeys = [{KEY[:-2]}, expires = 2027-01-01T00:00:00 }}]", "with its zone"),
        (f"[callers.app]\nkeys = [{KEY[:-2]}, expire = 1 }}]", "more than prefix"),
        (
            "".join(
                f'[callers.{it}]\nkeys = [{{ sha256 = "{digest * 32}" }}]\nscopes = []\n'
                for it, digest in SHARED.items()
            ),
            "a key in common",
        ),
    ],
)
def test_callers_file_with_a_mistake_is_refused_without_its_secrets(tmp_path: Path, content: str, said: str) -> None:
    """Whatever is wrong with the file is said without a key or a hash."""
    file = tmp_path / "callers.toml"
    file.write_text(content)
    with pytest.raises(CallersFileError, match=said) as refused:
        Callers.load(file)
    assert "hunter2" not in str(refused.value)
    assert "ab" * 8 not in str(refused.value)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "marked"])
def test_callers_file_of_any_editor_is_read(tmp_path: Path, mark: bytes, ending: str) -> None:
    """A byte-order mark, and lines that end as on another system."""
    key, entry = new_key("app")
    file = tmp_path / "callers.toml"
    file.write_bytes(mark + f"# zoë's\n{entry}rooms = ['a']\n".replace("\n", ending).encode())
    assert Callers.load(file).identify(key).name == "app"


def test_callers_file_of_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    """What PowerShell writes, and a Latin-1 letter in the third line."""
    file = tmp_path / "callers.toml"
    for content, said in (
        ("[callers.app]".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        (b"[callers.app]\n\n# zo\xeb\n", "is not UTF-8 in line 3"),
    ):
        file.write_bytes(content)
        with pytest.raises(CallersFileError, match=f"callers.toml cannot be read: it {said}"):
            Callers.load(file)


def test_callers_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, and a folder, cannot be read."""
    file = tmp_path / "callers.toml"
    file.write_bytes(b"\xff\xfe\x00")
    for path in (file, tmp_path, tmp_path / "absent.toml"):
        with pytest.raises(CallersFileError, match="cannot be read"):
            Callers.load(path)


def test_key_command_prints_usable_lines_and_the_key_apart(tmp_path: Path) -> None:
    """Standard output is the file; the key goes to standard error, so that it does not end up there."""
    made = command("lesson-service_2")
    assert made.returncode == 0
    file = tmp_path / "callers.toml"
    file.write_text(made.stdout)
    (key,) = (word for word in made.stderr.split() if word.startswith("gw_"))
    assert Callers.load(file).identify(key).name == "lesson-service_2"
    assert key not in made.stdout


@pytest.mark.parametrize("name", ["", "a b", "a.b", 'a"b', "a]\n[callers.root", "größe", "a" * 65])
def test_key_command_refuses_names_that_need_quoting(name: str) -> None:
    """A name that would break the file, or mean another table, is refused and makes no key."""
    refused = command(name)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "gw_" not in refused.stderr
    assert "letters" in refused.stderr


@pytest.mark.anyio
@pytest.mark.parametrize("header", ["", "Bearer gw_00000000_wrong", "Basic Z3c6Z3c=", "Bearer"])
async def test_request_without_a_key_is_answered_401_with_www_authenticate(
    gateway: ApiClient, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem, header: str
) -> None:
    """Every route of ours answers 401 with WWW-Authenticate, before it looks at anything else."""
    track = new_track()
    requests = [
        ("POST", START, track),
        ("POST", STOP, track),
        ("POST", START, {"kind": "smell"}),
        ("GET", f"/v1/recordings/track/{track['roomId']}/p/video", None),
    ]
    for method, path, body in requests:
        answer = await gateway.request(method, path, json=body, headers={"authorization": header})
        check_problem(answer, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert "gw_" not in answer.text
    assert harness.calls_for(simulator, track["roomId"]) == []


@pytest.mark.anyio
async def test_request_for_probes_docs_and_problems_needs_no_key(gateway: ApiClient) -> None:
    """A caller without a key reads only what shows no recording."""
    for path in ("/livez", "/readyz", "/docs", "/openapi.json", "/problems/internal"):
        assert (await gateway.get(path, headers={"authorization": ""})).status_code == 200


@pytest.mark.anyio
async def test_show_names_the_caller_that_started(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack
) -> None:
    """The recording names the caller who started it, to every reader."""
    (app, first), (bot, second) = new_key("app"), new_key("bot")
    file = tmp_path / "both.toml"
    file.write_text(first + second)
    settings = harness.environment(valkey.url, simulator.url, file, **harness.CALM)
    async with harness.serve(settings) as url, harness.client(url, app) as as_app, harness.client(url, bot) as as_bot:
        track = new_track()
        assert (await as_app.start(track)).json()["requestedBy"] == "app"
        assert (await as_bot.start(track)).json()["requestedBy"] == "app"


@pytest.mark.anyio
async def test_start_without_authentication_is_open_to_all(
    valkey: EmbeddedValkey, simulator: Simulator, demo: harness.Demo, new_track: NewTrack
) -> None:
    """`GATEWAY_AUTH=none` lets in a caller without a key, and one with any."""
    settings = harness.environment(valkey.url, simulator.url, demo.file, **harness.CALM, GATEWAY_AUTH="none")
    async with harness.serve(settings) as url, harness.client(url) as client:
        track = new_track()
        started = await client.start(track)
        assert started.status_code == 201
        assert started.json()["requestedBy"] == "anyone"
        again = await client.start(track, headers={"authorization": "Bearer whatever"})
        assert again.status_code == 200
