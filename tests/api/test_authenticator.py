"""Who gets in: API keys, join tokens and JWTs, over HTTP and with real files; and who does not."""

import ast
import asyncio
import inspect
import json
import textwrap
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.app import fetch_jwks
from gateway.auth.api_keys import Callers, CallersFile, new_key
from gateway.auth.join_tokens import JoinTokens
from gateway.auth.oidc_tokens import ClaimNames, OidcTokens
from gateway.auth.policy import Scope
from gateway.errors import IdentityUnavailable, Unauthenticated
from gateway.sandbox.identities import IdentityProvider, demo_join_token
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.valkey import EmbeddedValkey
from gateway.secrets import Secret
from tests import harness
from tests.api_client import START, STOP, ApiClient, NewTrack

pytestmark = pytest.mark.anyio


CheckProblem = Callable[[httpx.Response, str], dict[str, Any]]
MINTED = partial(demo_join_token, harness.API_KEY, harness.SECRET)


@asynccontextmanager
async def gateway_for(valkey: EmbeddedValkey, simulator: Simulator, **settings: str) -> AsyncGenerator[ApiClient]:
    """Serve a gateway that knows callers by these settings alone."""
    environ = harness.environment(valkey.url, simulator.url, Path("unset"), **harness.CALM)
    del environ["GATEWAY_CALLERS_FILE"]
    async with harness.serve(environ | settings) as url, harness.client(url) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    """Return the header that shows a key or a token."""
    return {"authorization": f"Bearer {token}"}


def write(file: Path, *entries: str) -> None:
    """Replace a file in one step, as careful operators and Kubernetes do."""
    new = file.with_suffix(".new")
    new.write_text("".join(entries))
    new.rename(file)


def keys_of(*entries: str) -> str:
    """Make one caller of several callers' keys."""
    return f"[callers.app]\n{harness.keys_in(*entries)}scopes = []\n"


# --- API keys ----------------------------------------------------------------------------------------------------


def expiring(entry: str, when: datetime) -> str:
    """Let a new key's lines expire."""
    return entry.replace(" }]", f", expires = {when.isoformat()} }}]")


def test_key_past_its_expiry_is_refused(tmp_path: Path) -> None:
    """A key is good until its time, in whichever zone that is written, and then no more."""
    key, entry = new_key("app")
    file = tmp_path / "callers.toml"
    file.write_text(expiring(entry, datetime.now(UTC) + timedelta(minutes=1)))
    assert Callers.load(file).identify(key).name == "app"
    file.write_text(expiring(entry, (datetime.now(UTC) - timedelta(seconds=1))))
    with pytest.raises(Unauthenticated, match="expired"):
        Callers.load(file).identify(key)


def test_key_with_an_expiry_ends_what_its_caller_was_given(tmp_path: Path) -> None:
    """The caller's right to a stream ends with the key; that of a key without an expiry does not end."""
    (key, entry), (lasting, other) = new_key("app"), new_key("other")
    end = datetime.now(UTC) + timedelta(minutes=1)
    file = tmp_path / "callers.toml"
    file.write_text(expiring(entry, end) + other)
    callers = Callers.load(file)
    assert callers.identify(key).expires == pytest.approx(end.timestamp())
    assert callers.identify(lasting).expires is None


def test_key_with_another_expiry_is_vouched_for_no_more(tmp_path: Path) -> None:
    """What was opened before `expires` changed, either way, ends; the same moment in another zone changes nothing."""
    key, entry = new_key("app")
    end, file = datetime.now(UTC) + timedelta(days=30), tmp_path / "callers.toml"
    file.write_text(expiring(entry, end))
    opened = Callers.load(file).identify(key)
    file.write_text(expiring(entry, end.astimezone(timezone(timedelta(hours=2)))))
    assert Callers.load(file).vouches(opened.grant)
    hour = timedelta(hours=1)
    for changed in (entry, expiring(entry, datetime.now(UTC) - hour), expiring(entry, end + hour)):
        file.write_text(changed)
        assert not Callers.load(file).vouches(opened.grant)


def test_key_rotation_refuses_the_old_key_only_after_its_removal(tmp_path: Path) -> None:
    """Old, both, new: a caller with the old key is accepted until the operator removes it."""
    (old, first), (new, second) = new_key("app"), new_key("app")
    file = tmp_path / "callers.toml"
    for entries, good, bad in (((first,), [old], [new]), ((first, second), [old, new], []), ((second,), [new], [old])):
        file.write_text(keys_of(*entries))
        callers = Callers.load(file)
        assert [callers.identify(key).name for key in good] == ["app"] * len(good)
        for key in bad:
            with pytest.raises(Unauthenticated):
                callers.identify(key)


def test_key_lookup_compares_every_key_in_constant_time() -> None:
    """The search compares each key with `compare_digest` and never ends early, whatever it has found."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(Callers.identify))).body
    (loop,) = (node for node in ast.walk(function) if isinstance(node, ast.For))
    assert not any(isinstance(node, ast.Break | ast.Return | ast.Raise | ast.Continue) for node in ast.walk(loop))
    (condition,) = (node.test for node in ast.walk(loop) if isinstance(node, ast.If))
    assert isinstance(condition, ast.Call)
    assert ast.unparse(condition.func) == "hmac.compare_digest"
    assert not any(isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq) for node in ast.walk(function))


async def test_callers_file_replaced_under_load_fails_no_request(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, check_problem: CheckProblem
) -> None:
    """While requests run the file is replaced again and again: none fails.

    A broken one changes nothing but what readiness says, and the next good one counts.
    """
    (steady, entry), (late, more), (last, final) = new_key("steady"), new_key("late"), new_key("last")
    file = tmp_path / "callers.toml"
    file.write_text(entry)
    path = "/v1/recordings/track/nowhere/nobody/video"
    async with gateway_for(valkey, simulator, GATEWAY_CALLERS_FILE=str(file)) as client:
        statuses: set[int] = set()
        running = True

        async def ask() -> None:
            while running:
                statuses.add((await client.get(path, headers=bearer(steady))).status_code)

        async def status(key: str) -> int:
            return (await client.get(path, headers=bearer(key))).status_code

        async def warnings() -> list[str]:
            return (await client.get("/readyz")).json().get("warnings", [])

        load = [asyncio.create_task(ask()) for _ in range(8)]
        check_problem(await client.get(path, headers=bearer(late)), "unauthenticated")

        async def known_after_replacing() -> int:
            write(file, entry, more)
            return await status(late)

        await harness.until(known_after_replacing, lambda known: known == 404)
        write(file, entry, more, "[callers.")
        assert await harness.until(warnings, bool) == ["callers-file-broken"]
        assert await status(late) == 404
        file.unlink()
        assert await status(late) == 404
        write(file, entry, final)
        await harness.until(partial(status, last), lambda known: known == 404)
        assert await warnings() == []
        assert await status(late) == 401
        running = False
        await asyncio.gather(*load)
    assert statuses == {404}


def test_callers_file_that_breaks_keeps_its_callers(tmp_path: Path) -> None:
    """What is wrong is said, and said to be over when it is."""
    key, entry = new_key("app")
    file = tmp_path / "callers.toml"
    file.write_text(entry)
    callers = CallersFile(file)

    def broken() -> str:
        callers.refresh()
        assert callers.identify(key).name == "app"
        return callers.broken

    write(file, "[people]")
    harness.wait_until(lambda: "names no caller" in broken())
    file.unlink()
    harness.wait_until(lambda: "cannot be read" in broken())
    write(file, entry)
    harness.wait_until(lambda: not broken())


async def test_request_outside_the_callers_scopes_is_refused(
    valkey: EmbeddedValkey, simulator: Simulator, tmp_path: Path, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """Each route asks for its own scope, before it looks at the body."""
    file = tmp_path / "callers.toml"
    keys: dict[Scope, str] = {}
    entries: list[str] = []
    for scope in (Scope.START, Scope.STOP, Scope.READ):
        keys[scope], entry = new_key(scope.rpartition(":")[2])
        entries.append(harness.scoped(entry, scope))
    file.write_text("".join(entries))
    track = new_track()
    requests = {
        Scope.START: ("POST", START),
        Scope.STOP: ("POST", STOP),
        Scope.READ: ("GET", "/v1/recordings/track/{roomId}/{participantId}/{kind}".format(**track)),
    }
    async with gateway_for(valkey, simulator, GATEWAY_CALLERS_FILE=str(file)) as client:
        for needed, (method, path) in requests.items():
            for scope, key in keys.items():
                body = track if method == "POST" else None
                answer = await client.request(method, path, json=body, headers=bearer(key))
                if scope is needed:
                    assert answer.is_success
                else:
                    assert check_problem(answer, "forbidden")["rule"] == "scope"
                    if method == "POST":
                        answer = await client.post(path, json={}, headers=bearer(key))
                        assert check_problem(answer, "forbidden")["rule"] == "scope"


# --- join tokens -------------------------------------------------------------------------------------------------

OTHER_SECRET = "another-project-0123456789abcdef0123456789"
NOT_GENUINE = {
    "forged": demo_join_token(harness.API_KEY, OTHER_SECRET, room="r1", participant="ada"),
    "expired": MINTED(room="r1", participant="ada", exp=int(time.time()) - 600),
    "without an end": MINTED(room="r1", participant="ada", exp=None),
    "of another project": MINTED(room="r1", participant="ada", apikey="another-project"),
    "of the REST API": MINTED(room="r1", participant="ada", roles=["crawler"]),
    "of the REST API, said otherwise": MINTED(room="r1", participant="ada", roles="crawler"),
    "for no room": MINTED(room=None, participant="ada"),
    "for an empty room": MINTED(room="", participant="ada"),
    "for a list of rooms": MINTED(room=None, participant="ada", roomId=["r1"]),
    "for no possible room": MINTED(room="a/b", participant="ada"),
    "not yet valid": MINTED(room="r1", participant="ada", nbf=int(time.time()) + 6 * 3600),
    "unsigned": jwt.encode({"apikey": harness.API_KEY, "roomId": "r1", "exp": 2**33}, "", algorithm="none"),
    "with another algorithm": jwt.encode(
        {"apikey": harness.API_KEY, "roomId": "r1", "exp": 2**33}, harness.SECRET * 2, algorithm="HS512"
    ),
    "cut short": MINTED(room="r1", participant="ada")[:-3],
    "no token": "eyJhbGciOiJIUzI1NiJ9.e30.",
}


@pytest.fixture
async def browser(valkey: EmbeddedValkey, simulator: Simulator) -> AsyncIterator[ApiClient]:
    """A gateway that lets in participants alone."""
    async with gateway_for(valkey, simulator, GATEWAY_JOIN_TOKENS="on") as client:
        yield client


async def test_join_token_of_a_participant_records_its_own_tracks(browser: ApiClient, new_track: NewTrack) -> None:
    """Start, look and stop with the token the browser already has; the recording names the participant."""
    track = new_track()
    headers = bearer(MINTED(room=track["roomId"], participant=track["participantId"]))
    started = await browser.start(track, headers=headers)
    assert started.status_code == 201
    assert started.json()["requestedBy"] == f"participant:{track['participantId']}"
    assert (await browser.get(started.headers["location"], headers=headers)).json()["status"] == "recording"
    assert (await browser.stop(track, headers=headers)).json()["outcome"] == "stopped"


async def test_join_token_of_a_participant_is_refused_for_others(
    browser: ApiClient, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """The gateway refuses another room, another participant, and a token without a participant."""
    track = new_track()
    own = MINTED(room=track["roomId"], participant=track["participantId"])
    without_participant = MINTED(room=track["roomId"], participant=None)
    refused = [
        (own, {**track, "roomId": "another"}, "room"),
        (own, {**track, "participantId": "another"}, "participant"),
        (without_participant, track, "participant"),
    ]
    for token, body, rule in refused:
        for route in (START, STOP):
            answer = await browser.post(route, json=body, headers=bearer(token))
            assert check_problem(answer, "forbidden")["rule"] == rule
        look = "/v1/recordings/track/{roomId}/{participantId}/{kind}".format(**body)
        assert check_problem(await browser.get(look, headers=bearer(token)), "forbidden")["rule"] == rule
    assert harness.calls_for(simulator, track["roomId"]) == harness.calls_for(simulator, "another") == []


async def test_join_token_of_a_moderator_records_all_participants_of_its_room(
    browser: ApiClient, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """`allow_mod` reaches all participants, and no other room."""
    track = new_track()
    headers = bearer(MINTED(room=track["roomId"], participant="teacher", permissions=["allow_join", "allow_mod"]))
    assert (await browser.start(track, headers=headers)).status_code == 201
    answer = await browser.start({**track, "roomId": "another"}, headers=headers)
    assert check_problem(answer, "forbidden")["rule"] == "room"


@pytest.mark.parametrize("name", ["joins@example.com", "joins|5f7c", "joins:42", "joïns", "*", "r*"])
async def test_join_token_of_any_id_is_for_that_id_alone(
    name: str, browser: ApiClient, check_problem: CheckProblem
) -> None:
    """Ids as people have them; an asterisk in a token is a character and stands for no other room or participant."""
    headers = bearer(MINTED(room=name, participant=name))
    track = {"roomId": name, "participantId": name, "kind": "audio"}
    started = await browser.start(track, headers=headers)
    assert (started.status_code, started.json()["requestedBy"]) == (201, f"participant:{name}")
    for field in ("roomId", "participantId"):
        for other in ("r1", "another", f"{name}x"):
            answer = await browser.start({**track, field: other}, headers=headers)
            assert check_problem(answer, "forbidden")["rule"] == field.removesuffix("Id")


def test_join_token_accounts_of_different_ids_are_different() -> None:
    """No id can pass for the end of another's room: what is kept and limited by account stays apart."""
    tokens = JoinTokens(lambda: harness.API_KEY, lambda: Secret(harness.SECRET), "on")
    pairs = [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c")]
    assert len({tokens.identify(MINTED(room=room, participant=name)).account for room, name in pairs}) == len(pairs)


def test_join_token_with_empty_ids_is_one_without() -> None:
    """An empty id is no id: it names no participant, whose tracks its bearer could act on, and no room."""
    tokens = JoinTokens(lambda: harness.API_KEY, lambda: Secret(harness.SECRET), "any-room")
    bearer_of_none = tokens.identify(MINTED(room="", participant=""))
    assert (bearer_of_none.name, bearer_of_none.policy.participants) == ("participant:", ())
    assert bearer_of_none.policy.rooms is None


@pytest.mark.parametrize("token", NOT_GENUINE.values(), ids=NOT_GENUINE)
async def test_join_token_that_is_not_genuine_is_refused(
    browser: ApiClient, simulator: Simulator, check_problem: CheckProblem, token: str
) -> None:
    """Whatever is wrong with it: 401, in words without the token."""
    body = {"roomId": "r1", "participantId": "ada", "kind": "video"}
    answer = await browser.start(body, headers=bearer(token))
    check_problem(answer, "unauthenticated")
    assert token not in answer.text
    assert harness.calls_for(simulator, "r1") == []


async def test_join_token_without_a_room_is_accepted_under_any_room(
    valkey: EmbeddedValkey, simulator: Simulator, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """`any-room` is for projects whose tokens name no room; one that names a room is still held to it."""
    async with gateway_for(valkey, simulator, GATEWAY_JOIN_TOKENS="any-room") as client:
        track = new_track()
        free = bearer(MINTED(room=None, participant=track["participantId"]))
        assert (await client.start(track, headers=free)).status_code == 201
        bound = bearer(MINTED(room="another", participant=track["participantId"]))
        assert check_problem(await client.start(track, headers=bound), "forbidden")["rule"] == "room"
        for token in (NOT_GENUINE["for a list of rooms"], NOT_GENUINE["for no possible room"]):
            check_problem(await client.start(track, headers=bearer(token)), "unauthenticated")


async def test_join_token_is_refused_unless_configured(
    gateway: ApiClient, new_track: NewTrack, check_problem: CheckProblem
) -> None:
    """A gateway for services does not know them."""
    track = new_track()
    token = MINTED(room=track["roomId"], participant=track["participantId"])
    check_problem(await gateway.start(track, headers=bearer(token)), "unauthenticated")


# --- JWTs --------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time it stands at."""
        return self.now


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    """An identity provider on a socket."""
    async with IdentityProvider() as company:
        yield company


def reader(
    provider: IdentityProvider, clock: Clock, claims: ClaimNames | None = None, *, unknown_seconds: float = 5
) -> OidcTokens:
    """Return what reads the provider's tokens, at a time of the test's own."""
    fetch = partial(fetch_jwks, provider.settings["GATEWAY_JWT_JWKS_URL"])
    claims = claims or ClaimNames()
    return OidcTokens(fetch, provider.issuer, "recording-gateway", claims, clock, unknown_seconds=unknown_seconds)


async def test_oidc_token_grants_its_scopes_and_rooms(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    provider: IdentityProvider,
    new_track: NewTrack,
    check_problem: CheckProblem,
) -> None:
    """A JWT with scopes and rooms does what these say; the keys are fetched once."""
    track = new_track()
    settings = provider.settings | {"GATEWAY_JWT_ROOMS_CLAIM": "video.rooms", "GATEWAY_JWT_NAME_CLAIM": "email"}
    async with gateway_for(valkey, simulator, **settings) as client:

        def person(*rooms: str, **claims: object) -> dict[str, str]:
            said: dict[str, object] = {"email": "ada@example.com", "video": {"rooms": list(rooms)}, **claims}
            return bearer(provider.token("1815", **said))

        started = await client.start(track, headers=person("room-*"))
        assert (started.status_code, started.json()["requestedBy"]) == (201, "jwt:ada@example.com")
        for headers, rule in (
            (person("elsewhere"), "room"),
            (person(), "room"),
            (person("room-*", video=None), "room"),
            (person("room-*", scope="recordings:read openid"), "scope"),
            (person("room-*", scope=None), "scope"),
        ):
            assert check_problem(await client.start(track, headers=headers), "forbidden")["rule"] == rule
        as_list = person("room-*", scope=["recordings:stop"])
        assert (await client.stop(track, headers=as_list)).json()["outcome"] == "stopped"
        for wrong in (
            {"iss": "https://evil.example"},
            {"aud": "another"},
            {"exp": 1},
            {"exp": None},
            {"email": 7},
            {"email": ""},
        ):
            answer = await client.start(track, headers=person("room-*", **wrong))
            check_problem(answer, "unauthenticated")
    assert provider.fetches == 1


async def test_oidc_token_signed_with_a_public_key_is_refused(
    valkey: EmbeddedValkey, simulator: Simulator, provider: IdentityProvider, new_track: NewTrack
) -> None:
    """The published key taken for a shared secret, no signature, another key under a known name: all refused.

    Also where join tokens, which have a shared secret, are read.
    """
    claims = jwt.decode(provider.token("eve"), options={"verify_signature": False})
    (published,) = jwt.PyJWKSet.from_dict(provider.document).keys
    pem = published.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = json.dumps(provider.document["keys"][0])
    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kid = {"kid": published.key_id or ""}
    forged = [
        _hs256(claims, pem, kid),
        _hs256(claims, text.encode(), kid),
        jwt.encode(claims, "", algorithm="none", headers=kid),
        jwt.encode(claims, own, algorithm="RS256", headers=kid),
        jwt.encode(claims, own, algorithm="PS512"),
    ]
    settings = provider.settings | {"GATEWAY_JOIN_TOKENS": "any-room"}
    async with gateway_for(valkey, simulator, **settings) as client:
        for token in forged:
            answer = await client.start(new_track(), headers=bearer(token))
            assert answer.status_code == 401
            assert token not in answer.text


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SIGNING: dict[str, tuple[Any, Any]] = {
    **{f"{family}{bits}": (RSA, RSAAlgorithm) for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": (ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "ES384": (ec.generate_private_key(ec.SECP384R1()), ECAlgorithm),
    "ES512": (ec.generate_private_key(ec.SECP521R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm),
}


@pytest.mark.parametrize("algorithm", SIGNING)
async def test_oidc_token_of_each_asymmetric_algorithm_is_accepted(algorithm: str) -> None:
    """Whatever an identity provider signs with, as long as its keys are public."""
    private, shape = SIGNING[algorithm]
    published = json.loads(shape.to_jwk(private.public_key()))
    document = json.dumps({"keys": [{**published, "kid": "k", "use": "sig", "alg": algorithm}]})

    async def fetch() -> bytes:
        return document.encode()

    tokens = OidcTokens(fetch, "issuer", "gateway", ClaimNames())
    claims = {"iss": "issuer", "aud": "gateway", "sub": "ada", "exp": int(time.time()) + 60}
    caller = await tokens.identify(jwt.encode(claims, private, algorithm=algorithm, headers={"kid": "k"}))
    assert caller.name == "jwt:ada"


def _hs256(claims: dict[str, Any], secret: bytes, headers: dict[str, str]) -> str:
    """Sign by hand: the library would refuse to take a public key for a secret."""
    import base64
    import hmac

    def encode(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    head = encode(json.dumps({"alg": "HS256", "typ": "JWT", **headers}).encode())
    signed = f"{head}.{encode(json.dumps(claims).encode())}"
    return f"{signed}.{encode(hmac.digest(secret, signed.encode(), 'sha256'))}"


async def test_oidc_token_with_a_rotated_key_waits_for_it_whatever_is_made_up_meanwhile(
    provider: IdentityProvider,
) -> None:
    """Made-up names of keys become one fetch in a pause together, and the bearer of a new key is never refused."""
    company = reader(provider, Clock(), unknown_seconds=0.05)
    old = provider.token("ada")
    assert (await company.identify(old)).name == "jwt:ada"
    stranger = rsa.generate_private_key(65537, 2048)

    async def refused(number: int) -> None:
        with pytest.raises(Unauthenticated):
            await company.identify(jwt.encode({"sub": "eve"}, stranger, "RS256", headers={"kid": f"made-up-{number}"}))

    await refused(0)
    assert provider.fetches == 2
    provider.rotate()
    new = provider.token("ada")
    made_up = [refused(number) for number in range(1, 20)]
    *_, first, again = await asyncio.gather(*made_up, company.identify(new), company.identify(new))
    assert first is not None
    assert again is not None
    assert (first.name, again.name) == ("jwt:ada", "jwt:ada")
    assert (await company.identify(old)).name == "jwt:ada"
    assert provider.fetches == 3


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "in parts"])
async def test_jwks_fetch_beyond_the_bound_is_given_up(*, declared: bool) -> None:
    """256 KiB are read to the end; what goes on beyond them is given up, whether or not its length was declared."""
    most = 256 * 1024
    sizes = [most, most + 1]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        size = sizes.pop(0)
        length = f"content-length: {size}\r\n" if declared else ""
        writer.write(f"HTTP/1.1 200 OK\r\n{length}connection: close\r\n\r\n".encode() + b" " * size)
        # Until the other side has read it, or has given up.
        with suppress(ConnectionError):
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
    assert len(await fetch_jwks(url)) == most
    with pytest.raises(OSError, match="too long"):
        await fetch_jwks(url)
    server.close()
    await server.wait_closed()


async def test_jwks_fetch_that_never_ends_is_given_up() -> None:
    """Each part arrives in time, and the whole does not."""
    ended = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.transport.abort()
        ended.set()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    async with asyncio.timeout(20):
        with pytest.raises(TimeoutError):
            await fetch_jwks(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks", timeout=0.3)
        await ended.wait()
    server.close()
    await server.wait_closed()


async def test_oidc_token_with_a_withdrawn_key_is_refused_within_an_hour(provider: IdentityProvider) -> None:
    """An hour later at most; a provider that does not answer then changes nothing."""
    clock = Clock()
    company = reader(provider, clock)
    withdrawn = provider.token("ada")
    assert (await company.identify(withdrawn)).name == "jwt:ada"
    provider.status = 503
    clock.now += 3601
    assert (await company.identify(withdrawn)).name == "jwt:ada"
    provider.rotate(forget=True)
    provider.status = 200
    clock.now += 61
    with pytest.raises(Unauthenticated):
        await company.identify(withdrawn)


async def test_oidc_token_with_a_known_key_fetches_keys_once_an_hour(provider: IdentityProvider) -> None:
    """Keys of less than an hour ago are not fetched again, however often they are used."""
    clock = Clock()
    clock.now = 1e9
    company = reader(provider, clock)
    for later in (0, 61, 3500):
        clock.now = 1e9 + later
        await company.identify(provider.token("ada"))
    assert provider.fetches == 1
    clock.now = 1e9 + 3601
    await company.identify(provider.token("ada"))
    assert provider.fetches == 2


async def test_oidc_token_before_any_provider_answer_is_answered_503(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    provider: IdentityProvider,
    new_track: NewTrack,
    check_problem: CheckProblem,
) -> None:
    """The gateway cannot verify the token: 503 with Retry-After, not 401, which would send people to log in again."""
    provider.status = 500
    async with gateway_for(valkey, simulator, **provider.settings) as client:
        answer = await client.start(new_track(), headers=bearer(provider.token("ada")))
        check_problem(answer, "identity-unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    company = reader(provider, Clock())
    with pytest.raises(IdentityUnavailable):
        await company.identify(provider.token("ada"))


async def test_authentication_with_all_three_identities_finds_each(
    valkey: EmbeddedValkey,
    simulator: Simulator,
    provider: IdentityProvider,
    demo: harness.Demo,
    new_track: NewTrack,
) -> None:
    """A gateway with all three knows each by what it shows."""
    settings = {**provider.settings, "GATEWAY_JOIN_TOKENS": "on", "GATEWAY_CALLERS_FILE": str(demo.file)}
    async with gateway_for(valkey, simulator, **settings) as client:
        names: list[str] = []
        tracks = [new_track() for _ in range(3)]
        for number, track in enumerate(tracks):
            join = MINTED(room=track["roomId"], participant=track["participantId"])
            shown = (demo.key, join, provider.token("grace"))[number]
            names.append((await client.start(track, headers=bearer(shown))).json()["requestedBy"])
    assert names == ["demo", f"participant:{tracks[1]['participantId']}", "jwt:grace"]
