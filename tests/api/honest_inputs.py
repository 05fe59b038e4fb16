"""Honest values of `webhookUrl` and `bucketDirPath`, as data: each passes, and reaches VideoSDK byte for byte.

All are allowed to the caller `OPEN` of `hostile_inputs`; those with `listed` to the caller `LISTED` as well.
"""

from typing import NamedTuple

from tests.api.hostile_inputs import PATH, URL


class Honest(NamedTuple):
    """A value that must pass: for `LISTED` too where `listed` is true."""

    field: str
    value: str
    listed: bool


_AT = "recordings/acme"

_HONEST_URLS_LISTED = [
    "https://hooks.example.com",
    "https://hooks.example.com/",
    "https://hooks.example.com/videosdk?key=s3cr%2Ft&x=1",
    "HTTPS://Hooks.Example.COM/Path",
    "https://hooks.example.com./x",
    "https://hooks.example.com:443/x",
    "https://hooks.example.com:8443/x",
    "https://hooks.example.com:65535/",
    "https://hooks.example.com:/x",
    "https://hooks.example.com?key=1",
    "https://hooks.example.com/@team/hook",
    "https://hooks.example.com/?mail=a@b.example",
    "https://hooks.example.com/?next=https%3A%2F%2Fother.example%2F%3Fa%3Db",
    "https://hooks.example.com/?next=http://127.0.0.1/",
    "https://hooks.example.com/a%2520b+c=d;e,f!g*h'i(j)~k",
    "https://hooks.example.com/ünïcödé/日本語",
    "https://hooks.example.com/../x/./y//z",
    "https://hooks.example.com/100%",
    "https://hooks.example.com/a:b",
    "https://hooks.example.com/[x]?{y}",
    "https://hooks.example.com/" + "x" * 2000,
    "https://hooks.example.com/hooks?token=" + "A1b2" * 50,
    "https://v2.apps.example.org/x",
    "https://a.b.apps.example.org/x",
    "https://r3---n1.apps.example.org/x",
    "https://1.apps.example.org/",
    "https://10-0-0-1.apps.example.org/",
    "https://bücher.example/",
    "https://BÜCHER.example/",
    "https://xn--bcher-kva.example/",
    "https://XN--BCHER-KVA.EXAMPLE./",
    "https://bu\u0308cher.example/",
]
_HONEST_URLS = [
    "https://app.example.com/hooks/videosdk?key=1",
    "https://example.com/",
    "https://123.example.com/",
    "https://0x7f.example.com/",
    "https://localhost.example.com/",
    "https://internal.example.com/",
    "https://mylocal.example/",
    "https://notlocaltest.me/",
    "https://svc.example.com/",
    "https://例え.テスト.example/",
    "https://xn--strae-oqa.example/",
    "https://" + "a" * 63 + ".example.com/",
    "https://abcdef.execute-api.eu-central-1.amazonaws.com/prod/hook",
]
_HONEST_PATHS_LISTED = [
    _AT,
    _AT + "/2026",
    _AT + "/2026/04/lesson 1",
    _AT + "/v1.2/build.3",
    _AT + "/.hidden",
    _AT + "/..hidden",
    _AT + "/name..",
    _AT + "/a...b",
    _AT + "/year=2026/month=04",
    _AT + "/a+b",
    _AT + "/C++ & C#",
    _AT + "/100%",
    _AT + "/50% off",
    _AT + "/a%20b",
    _AT + "/v1%2E2",
    _AT + "/%41%42",
    _AT + "/Überblick/Ä Ö ü ß",
    _AT + "/u\u0308",
    _AT + "/日本語/授業。第一回",
    _AT + "/درس ١",
    _AT + "/урок 1",
    _AT + "/👩‍🏫 ❤️",
    _AT + "/part… two",
    _AT + "/½ hour",
    _AT + "/R&D & more",
    _AT + "/a&b;c",
    _AT + "/user@example.com",
    _AT + "/(draft) [1] {2} ~x^y",
    _AT + "/a:b,c;d!e'f$g*h",
    _AT + "/%PATH%",
    _AT + "/recordings/acme",
    _AT + "/" + "x" * 490,
]
_HONEST_PATHS = [
    "recordings",
    "recordings/2026/lesson 1",
    "a",
    "a/b/c/d/e/f/g/h",
    " x ",
    "x" * 512,
    "recordings/globex",
]

HONEST: tuple[Honest, ...] = tuple(
    Honest(field, value, listed)
    for field, values, listed in (
        (URL, _HONEST_URLS_LISTED, True),
        (URL, _HONEST_URLS, False),
        (PATH, _HONEST_PATHS_LISTED, True),
        (PATH, _HONEST_PATHS, False),
    )
    for value in values
)
