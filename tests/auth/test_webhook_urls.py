"""Where webhooks may lead: no address in any spelling, and what a caller's table may loosen."""

import contextlib
import ipaddress
import socket
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.auth.policy import Policy
from gateway.auth.webhook_urls import HostError, broken_rule, normal_pattern


def broken(table: dict[str, object], url: str) -> str | None:
    """Return the rule that an address breaks for a caller with this table."""
    policy = Policy.from_table(table)
    return broken_rule(url, http=policy.webhook_http, private=policy.webhook_private, hosts=policy.webhook_hosts)


DIGITS = ["0123456789", "０１２３４５６７８９", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗", "⓪①②③④⑤⑥⑦⑧⑨", "०१२३४५६७८९"]
SPELLINGS: list[Callable[[int], str]] = [
    str,
    hex,
    lambda number: hex(number).upper(),
    lambda number: f"0{number:o}",
    lambda number: f"{number:#012x}",
]
READERS: list[Callable[[str], object]] = [
    ipaddress.ip_address,
    socket.inet_aton,
    lambda text: socket.inet_pton(socket.AF_INET6, text),
]


@st.composite
def spelled_addresses(draw: st.DrawFn) -> str:
    """Draw an IPv4 address in any of the spellings that `inet_aton` reads, perhaps in disguise."""
    number = draw(st.integers(0, 2**32 - 1))
    heads = draw(st.integers(0, 3))
    octets = number.to_bytes(4, "big")
    parts = [*octets[:heads], int.from_bytes(octets[heads:], "big")]
    host = ".".join(draw(st.sampled_from(SPELLINGS))(part) for part in parts)
    with contextlib.suppress(OSError):
        assert socket.inet_aton(host) == octets
    digits, dot = draw(st.sampled_from(DIGITS)), draw(st.sampled_from([".", "。", "．", "｡", "․"]))
    host = host.translate(str.maketrans("0123456789.", digits + dot)) + draw(st.sampled_from(["", "."]))
    for _ in range(draw(st.integers(0, 3))):
        host = quote(host) if draw(st.booleans()) else "".join(f"%{octet:02X}" for octet in host.encode())
    assume(len(host) < 2000)
    return host


@given(spelled_addresses())
@settings(max_examples=500, deadline=None)
def test_webhook_url_with_any_spelling_of_an_ipv4_address_is_refused(host: str) -> None:
    """Parts left out, other bases, other scripts, other dots, escapes: it stays an address."""
    assert broken({}, f"https://{host}/") == "webhook-ip-literal"


@given(st.ip_addresses(v=6), st.booleans(), st.sampled_from(["", ":443"]))
@settings(deadline=None)
def test_webhook_url_with_an_ipv6_address_is_refused(address: ipaddress.IPv6Address, exploded: bool, port: str) -> None:
    """Short or long, with a port or without."""
    host = address.exploded.upper() if exploded else str(address)
    assert broken({}, f"https://[{host}]{port}/") == "webhook-ip-literal"


@given(st.text(alphabet="0123456789abcdefxX.:[]", min_size=1, max_size=20))
@settings(max_examples=1000, deadline=None)
def test_webhook_url_with_what_the_system_reads_as_an_address_is_refused(host: str) -> None:
    """Not one host that `ipaddress` or `inet_aton` understands passes."""
    for reader in READERS:
        with contextlib.suppress(ValueError, OSError):
            reader(host.strip("[]"))
            assert broken({}, f"https://{host}/") is not None


def test_webhook_url_over_http_is_allowed_by_its_switch_alone() -> None:
    """The switch loosens that rule and no other."""
    table: dict[str, object] = {"webhook_http": True}
    assert broken(table, "http://hooks.example.com/x") is None
    assert broken(table, "https://hooks.example.com/x") is None
    assert broken(table, "http://user@hooks.example.com/") == "webhook-credentials"
    assert broken(table, "http://127.0.0.1/") == "webhook-ip-literal"


@pytest.mark.parametrize(
    ("url", "rule"),
    {
        "https://127.0.0.1:8443/x": None,
        "https://[::1]:8443/x": None,
        "https://localhost/x": None,
        "https://redis/x": None,
        "https://gateway.default.svc.cluster.local/": None,
        "https://10.0.0.1/": None,
        "http://127.0.0.1/": "webhook-https",
        "https://user@127.0.0.1/": "webhook-credentials",
        "https://127.0.0.1/#x": "webhook-fragment",
        "https://127.1/": "webhook-ip-literal",
        "https://[127.0.0.1]/": "webhook-ip-literal",
        "https://2130706433/": "webhook-ip-literal",
        "https://127。0.0.1/": "webhook-ip-literal",
        "https://[fe80::1%25lo]/": "webhook-ip-literal",
        "https://local%68ost/": "webhook-host-form",
    }.items(),
)
def test_webhook_url_with_a_private_host_is_allowed_by_its_switch_alone(url: str, rule: str | None) -> None:
    """The switch allows private names and addresses in their usual spelling, and loosens no other rule."""
    assert broken({"webhook_private": True}, url) == rule


def test_webhook_url_with_a_private_host_obeys_the_list() -> None:
    """With private hosts allowed, a list still decides which; addresses are compared as addresses."""
    table: dict[str, object] = {"webhook_private": True, "webhook_hosts": ["127.0.0.1", "[::1]", "LocalHost", "*.svc"]}
    for host in ("127.0.0.1", "[::1]", "[0:0:0:0:0:0:0:1]", "localhost", "localhost.", "a.b.svc"):
        assert broken(table, f"https://{host}:8443/") is None, host
    for host in ("127.0.0.2", "[::2]", "redis", "svc", "hooks.example.com"):
        assert broken(table, f"https://{host}/") == "webhook-hosts", host


@pytest.mark.parametrize(("more", "rule"), [(0, None), (1, "webhook-host-form")])
def test_webhook_url_with_a_host_as_long_as_a_name_can_be_is_allowed(more: int, rule: str | None) -> None:
    """A name has 253 characters at most, and each of its labels 63."""
    host = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * (49 + more), "example.com"])
    assert len(host) == 253 + more
    assert broken({}, f"https://{host}/") == rule


@pytest.mark.parametrize(("more", "rule"), [(0, None), (1, "webhook-form")])
def test_webhook_url_as_long_as_one_may_be_is_allowed(more: int, rule: str | None) -> None:
    """The bound is the longest address that is allowed."""
    url = "https://example.com/".ljust(2048 + more, "a")
    assert broken({}, url) == rule


@pytest.mark.parametrize("pattern", ["[::1", "::1]", "*.[::1]", "[10.0.0.1]"])
def test_webhook_pattern_with_half_a_bracket_is_refused(pattern: str) -> None:
    """A pattern that no host can be is a mistake, and is said at the start."""
    with pytest.raises(HostError):
        normal_pattern(pattern, private=True)
