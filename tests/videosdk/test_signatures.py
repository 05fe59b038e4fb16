"""Which bodies are VideoSDK's, and how often it is asked for its key."""

import asyncio
import base64
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from gateway.sandbox.webhooks import Signer
from gateway.secrets import Secret
from gateway.settings.pem import WrongKeyError, read_keys
from gateway.videosdk.client import VideoSDK
from gateway.videosdk.signatures import Signatures, SignatureVerdict
from gateway.videosdk.tokens import MintedTokens
from gateway.videosdk.webhook_keys import FetchedKeys, PinnedKeys
from tests import harness

pytestmark = pytest.mark.anyio

BODY = b'{"webhookType":"session-started","data":{"meetingId":"abcd-efgh-ijkl"}}'


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Upstream:
    """A simulator, and what checks its webhooks."""

    def __init__(self, simulator: Simulator, client: VideoSDK) -> None:
        self.simulator = simulator
        self.clock = Clock()
        self.keys = FetchedKeys(client.public_key, self.clock)
        self.signatures = Signatures(self.keys)

    async def judge(self, signature: str | bytes, body: bytes = BODY) -> SignatureVerdict:
        """Have one signature checked."""
        header = signature.encode() if isinstance(signature, str) else signature
        return await self.signatures.judge(body, [header])

    @property
    def fetches(self) -> int:
        """How often VideoSDK was asked for its key."""
        return sum(call.endpoint == "key" for call in self.simulator.calls)


@pytest.fixture
async def upstream(simulator: Simulator) -> AsyncGenerator[Upstream]:
    """A simulator whose key has not been fetched."""
    client = VideoSDK(simulator.url, MintedTokens(harness.API_KEY, Secret(harness.SECRET)), timeout=harness.BOUND)
    yield Upstream(simulator, client)
    await client.aclose()


def pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, form: str = "SubjectPublicKeyInfo") -> str:
    """Return a public key as text."""
    format_ = getattr(serialization.PublicFormat, form)
    return key.public_bytes(serialization.Encoding.PEM, format_).decode()


async def test_signature_that_is_genuine_fetches_the_key_once(upstream: Upstream) -> None:
    """Many at once, before any key is there: one call for the key."""
    signature = upstream.simulator.sign(BODY)
    verdicts = await asyncio.gather(*(upstream.judge(signature) for _ in range(50)))
    assert set(verdicts) == {SignatureVerdict.GENUINE}
    assert upstream.fetches == 1


async def test_signature_in_a_wrong_form_is_forged_without_a_fetch(upstream: Upstream) -> None:
    """Other forms of a right signature and things that cannot be one do not even lead to a fetch."""
    signature = upstream.simulator.sign(BODY)
    for wrong in (
        "x",
        "====",
        signature[:-4],
        signature + "AAAA",
        signature.rstrip("="),
        f" {signature}",
        signature[:60] + "\n" + signature[60:],
        base64.urlsafe_b64encode(bytes(256 * [0xFB])),
        # The last letter before the padding has bits that do not count: one signature, two texts.
        signature[:-3] + chr(ord(signature[-3]) + 1) + "==",
        "A" * 100_000,
        b"\xff" * 344,
    ):
        assert await upstream.judge(wrong) is SignatureVerdict.FORGED, wrong
    assert await upstream.signatures.judge(BODY, []) is SignatureVerdict.UNSIGNED
    assert await upstream.signatures.judge(BODY, [b""]) is SignatureVerdict.UNSIGNED
    assert await upstream.signatures.judge(BODY, [b"", b""]) is SignatureVerdict.UNSIGNED
    assert upstream.fetches == 0
    twice = [signature.encode(), signature.encode()]
    assert await upstream.signatures.judge(BODY, twice) is SignatureVerdict.FORGED
    assert await upstream.judge(signature) is SignatureVerdict.GENUINE
    assert await upstream.judge(base64.b64decode(signature).hex()) is SignatureVerdict.FORGED, (
        "as long as one of 3072 bits"
    )


async def test_signature_forgeries_fetch_once_a_minute(upstream: Upstream) -> None:
    """A thousand forgeries, at once or one by one, in three minutes: three calls; genuine ones pass all the time."""
    forged = base64.b64encode(os.urandom(256))
    for minute in range(1, 4):
        verdicts = await asyncio.gather(*(upstream.judge(forged) for _ in range(200)))
        verdicts += [await upstream.judge(forged) for _ in range(50)]
        upstream.clock.now += 59
        verdicts.append(await upstream.judge(forged))
        assert set(verdicts) == {SignatureVerdict.FORGED}
        assert upstream.fetches == minute
        assert await upstream.judge(upstream.simulator.sign(BODY)) is SignatureVerdict.GENUINE
        upstream.clock.now += 1


async def test_signature_with_a_new_key_costs_one_fetch(upstream: Upstream) -> None:
    """VideoSDK signs with another key: the first webhooks that do not fit share one fetch, and then fit."""
    old = upstream.simulator.sign(BODY)
    assert await upstream.judge(old) is SignatureVerdict.GENUINE
    await upstream.simulator.rotate_key()
    new = upstream.simulator.sign(BODY)
    assert await upstream.judge(new) is SignatureVerdict.FORGED
    assert upstream.fetches == 1, "not within the minute"
    upstream.clock.now += 60
    assert set(await asyncio.gather(*(upstream.judge(new) for _ in range(50)))) == {SignatureVerdict.GENUINE}
    assert upstream.fetches == 2
    assert await upstream.judge(old) is SignatureVerdict.FORGED


async def test_signature_that_is_forged_is_so_after_a_new_key_too(upstream: Upstream) -> None:
    """A key that was fetched for it proves nothing unless the signature is by that key."""
    assert await upstream.judge(upstream.simulator.sign(BODY)) is SignatureVerdict.GENUINE
    await upstream.simulator.rotate_key()
    upstream.clock.now += 61
    forged = base64.b64encode(bytes(256 * [0xFB]))
    assert await upstream.judge(forged) is SignatureVerdict.FORGED
    assert upstream.fetches == 2


async def test_signature_key_is_fetched_again_after_an_hour(upstream: Upstream) -> None:
    """Signatures that fit are enough to keep a key for an hour; then VideoSDK is asked whether it is still the one."""
    old = upstream.simulator.sign(BODY)
    assert await upstream.judge(old) is SignatureVerdict.GENUINE
    await upstream.simulator.rotate_key()
    upstream.clock.now += 3599
    assert await upstream.judge(old) is SignatureVerdict.GENUINE
    upstream.clock.now += 1
    assert await upstream.judge(old) is SignatureVerdict.FORGED
    assert upstream.fetches == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault(action="refuse", endpoint="key", status=500, times=1),
        Fault(action="reset_before", endpoint="key", times=1),
        Fault(action="garbage", endpoint="key", times=1),
    ],
)
async def test_signature_without_a_key_is_undecided(upstream: Upstream, fault: Fault) -> None:
    """Neither genuine nor forged: undecided, for a minute, without a second call; then all is as it should be."""
    upstream.simulator.inject(fault)
    genuine, forged = upstream.simulator.sign(BODY), base64.b64encode(os.urandom(256))
    for _ in range(3):
        assert await upstream.judge(genuine) is SignatureVerdict.UNDECIDED
        assert await upstream.judge(forged) is SignatureVerdict.UNDECIDED
    assert upstream.fetches == 1
    upstream.clock.now += 60
    assert await upstream.judge(genuine) is SignatureVerdict.GENUINE
    assert await upstream.judge(forged) is SignatureVerdict.FORGED
    assert upstream.fetches == 2


async def test_signature_key_that_cannot_be_refreshed_keeps_the_old_one(upstream: Upstream) -> None:
    """What fits the old key is genuine; what does not may be signed with a new one, so it is not called forged."""
    old = upstream.simulator.sign(BODY)
    assert await upstream.judge(old) is SignatureVerdict.GENUINE
    await upstream.simulator.rotate_key()
    upstream.simulator.inject(Fault(action="refuse", endpoint="key", status=503, times=1))
    upstream.clock.now += 60
    new = upstream.simulator.sign(BODY)
    assert await upstream.judge(new) is SignatureVerdict.UNDECIDED
    assert await upstream.judge(old) is SignatureVerdict.GENUINE
    upstream.clock.now += 60
    assert await upstream.judge(new) is SignatureVerdict.GENUINE


async def test_signature_fetch_that_is_cancelled_blocks_no_other(upstream: Upstream) -> None:
    """A sender hangs up during the fetch: others cannot be decided on, and the next minute brings the key."""
    upstream.simulator.inject(harness.delay("key", 30))
    genuine = upstream.simulator.sign(BODY)
    first = asyncio.create_task(upstream.judge(genuine))
    second = asyncio.create_task(upstream.judge(genuine))
    await harness.eventually(lambda: upstream.fetches == 1)
    first.cancel()
    assert await second is SignatureVerdict.UNDECIDED
    upstream.simulator.clear_faults()
    upstream.clock.now += 60
    assert await upstream.judge(genuine) is SignatureVerdict.GENUINE


async def test_signature_fetch_that_hangs_is_given_up() -> None:
    """The sender of a webhook waits meanwhile: after so many seconds the gateway answers 503."""
    hanging = asyncio.Event()

    async def hang() -> str:
        await hanging.wait()
        return ""

    signatures = Signatures(FetchedKeys(hang, Clock(), timeout=0.05))
    async with asyncio.timeout(20):
        assert await signatures.judge(BODY, [base64.b64encode(os.urandom(256))]) is SignatureVerdict.UNDECIDED


async def test_signature_with_a_pinned_key_needs_no_fetch(tmp_path: Path, signer: Signer) -> None:
    """PKCS#1 as VideoSDK writes it; two keys during a change; what is broken is not taken up."""
    other, clock, file = Signer(), Clock(), tmp_path / "key.pem"
    file.write_text(signer.public_key)
    signatures = Signatures(PinnedKeys(file, clock))

    async def verdicts() -> tuple[SignatureVerdict, SignatureVerdict]:
        clock.now += 2
        mine = await signatures.judge(BODY, [signer.sign(BODY).encode()])
        return mine, await signatures.judge(BODY, [other.sign(BODY).encode()])

    assert await verdicts() == (SignatureVerdict.GENUINE, SignatureVerdict.FORGED)
    file.write_text(f"the old one:{signer.public_key}and the new one:{other.public_key}")
    assert await verdicts() == (SignatureVerdict.GENUINE, SignatureVerdict.GENUINE)
    file.write_text("broken")
    assert await verdicts() == (SignatureVerdict.GENUINE, SignatureVerdict.GENUINE)
    file.unlink()
    assert await verdicts() == (SignatureVerdict.GENUINE, SignatureVerdict.GENUINE)
    file.write_text(other.public_key)
    assert await verdicts() == (SignatureVerdict.FORGED, SignatureVerdict.GENUINE)


def test_keys_are_read_in_both_forms_and_nothing_else_is() -> None:
    """PKCS#1 and SPKI give the same key; short keys, other sorts, private ones and broken ones are refused."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key()
    assert read_keys(pem(public, "PKCS1")) == read_keys(f"\n{pem(public)}") == (public,)
    unencrypted = serialization.NoEncryption()
    whole = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted).decode()
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
    long = rsa.RSAPublicNumbers(65537, (1 << 8200) + 1).public_key()
    cut = pem(public).replace(pem(public).splitlines()[2] + "\n", "")
    wrong = [
        "",
        "x",
        whole,
        pem(short),
        pem(long),
        pem(ec.generate_private_key(ec.SECP256R1()).public_key()),
        cut,
        pem(public) * 5,
    ]
    for text in wrong:
        with pytest.raises(WrongKeyError) as caught:
            read_keys(text)
        assert "MII" not in str(caught.value)
