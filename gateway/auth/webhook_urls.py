"""Where a webhook may lead: which rule of a caller's policy an address breaks.

VideoSDK sends the webhook, not the gateway, so a name is judged by itself and never looked up: what it leads to is for
VideoSDK's resolver to say, at another time. A name is judged as every parser may read it (UTS #46, percent-decoded,
compatibility forms folded), because the address is passed on as it was written. A host that parsers do not agree on is
refused, and one that is no IDNA name too; its owner can always write it in punycode.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Collection
from typing import Final

import idna

from gateway.auth.canonical_text import decoded, is_line_noise, unmasked

__all__ = ["HostError", "broken_rule", "normal_pattern"]

_MAX_URL: Final = 2048
_MAX_HOST: Final = 253
_URL: Final = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.ASCII | re.DOTALL)
_AUTHORITY: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([0-9]{0,5}))?", re.ASCII)
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
"""No top-level domain is a number, so a host that ends in one is an address to lenient parsers of addresses."""
_DEVIATIONS: Final = frozenset("\u00df\u1e9e\u03c2")
"""Sharp s and final sigma: another host in IDNA2003 than in IDNA2008."""

_PRIVATE: Final = (
    *("localhost", "local", "localdomain", "internal", "intranet", "private", "corp", "home", "lan", "arpa"),
    *("svc", "default", "kube-system", "consul"),
    *("metadata.packet.net", "metadata.platformequinix.com", "metadata.tencentyun.com", "metadata.cloud.ibm.com"),
    *("localtest.me", "lvh.me", "lacolhost.com", "vcap.me", "nip.io", "sslip.io", "xip.io"),
    *("traefik.me", "backname.io", "rbndr.us", "fritz.box"),
)
"""Names that, with all below them, are private: reserved or customary for private networks, Kubernetes'
short forms, metadata services outside of `.internal`, and public names that lead to private addresses on purpose."""


class HostError(ValueError):
    """A host or a pattern of hosts cannot be used; the message says why, without it."""


def broken_rule(url: str, *, http: bool, private: bool, hosts: Collection[str] | None) -> str | None:
    """Return the rule that an address breaks first, or None.

    Args:
        url: The address as the caller wrote it.
        http: Whether http will do; https is always allowed.
        private: Whether private names and IP addresses in their usual spelling are allowed.
        hosts: Patterns from `normal_pattern`, one of which must match; None allows any host.
    """
    match = _URL.fullmatch(url)
    if not match or not 0 < len(url) <= _MAX_URL or any(map(_is_unsafe, url)):
        return "webhook-form"
    scheme, authority, rest = match.groups()
    return _broken_by_shape(authority, rest, plain=scheme.lower() == "http" and not http) or _broken_by_host(
        _AUTHORITY.fullmatch(authority), private, hosts
    )


def normal_pattern(pattern: str, *, private: bool) -> str:
    """Return a pattern of hosts (`hooks.example.com`, `*.example.com`) as hosts are compared with it.

    Raises:
        HostError: It is neither, or names what is refused whatever the pattern says.
    """
    wildcard = "*." if pattern.startswith("*.") else ""
    host = pattern.removeprefix(wildcard)
    address = _address(host)
    if address:
        if wildcard or not private:
            raise HostError("is an IP address, which only webhook_private allows, and without a `*`")
        return address
    name = _normal(host)
    if _is_number(name):
        raise HostError("is an IP address in an unusual spelling")
    if not private and _is_private(name):
        raise HostError("is a private name or a single label, which only webhook_private allows")
    return wildcard + name


def _is_unsafe(character: str) -> bool:
    return character == "\\" or character.isspace() or is_line_noise(character)


def _broken_by_shape(authority: str, rest: str, *, plain: bool) -> str | None:
    if "@" in authority:
        return "webhook-credentials"
    if plain:
        return "webhook-https"
    if "#" in rest:
        return "webhook-fragment"
    text = decoded(rest)
    return "webhook-encoding" if text is None or any(map(is_line_noise, text)) else None


def _broken_by_host(place: re.Match[str] | None, private: bool, hosts: Collection[str] | None) -> str | None:
    if not place or (place[2] and not 0 < int(place[2]) <= 65535):
        return "webhook-form"
    host, address = place[1], _address(place[1])
    if address and private:
        return None if hosts is None or address in hosts else "webhook-hosts"
    if address or host.startswith("["):
        return "webhook-ip-literal"
    return _broken_by_name(host, private, hosts)


def _broken_by_name(host: str, private: bool, hosts: Collection[str] | None) -> str | None:
    try:
        # What the most lenient parser makes of it comes first: the refusal names the worst that it may be.
        name = _normal(unmasked(host) or "")
        if _is_number(name):
            return "webhook-ip-literal"
        if _is_private(name) and not private:
            return "webhook-private-name"
        name = _normal(host)
    except HostError:
        return "webhook-host-form"
    return None if hosts is None or any(_matches(name, pattern) for pattern in hosts) else "webhook-hosts"


def _matches(name: str, pattern: str) -> bool:
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern


def _address(host: str) -> str | None:
    """Return an IP address in its usual spelling, for comparing; None where the host is none or spelled unusually."""
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        return None
    return None if "%" in host or bracketed != (address.version == 6) else str(address)


def _normal(host: str) -> str:
    """Return a name as names are compared: in A-labels and small letters, without a dot at its end."""
    if any(character in _DEVIATIONS or unicodedata.category(character) == "Cf" for character in host):
        raise HostError("is not read alike by all; write it in punycode, without invisible characters")
    try:
        name = ".".join(map(_label, idna.uts46_remap(host).removesuffix(".").split(".")))
    except idna.IDNAError:
        raise HostError("is not a host name") from None
    if len(name) > _MAX_HOST:
        raise HostError("is longer than a host name can be")
    return name


def _label(label: str) -> str:
    if not label.isascii() or label.startswith("xn--"):
        return idna.alabel(label).decode("ascii")
    if not _LABEL.fullmatch(label):
        raise HostError("is not a host name")
    return label


def _is_number(name: str) -> bool:
    """Tell whether the last label is a number, in digits of any script: a lenient parser takes it for an address."""
    last = name.rpartition(".")[2]
    text = idna.ulabel(last) if last.startswith("xn--") else last
    return bool(_NUMBER.fullmatch("".join(str(unicodedata.decimal(character, character)) for character in text)))


def _is_private(name: str) -> bool:
    return "." not in name or any(name == inside or name.endswith("." + inside) for inside in _PRIVATE)
