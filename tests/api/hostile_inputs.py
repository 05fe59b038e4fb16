"""Hostile values of `webhookUrl` and `bucketDirPath`, as data. The honest ones are in `honest_inputs`.

Each hostile row says what has to refuse it: `INVALID` where the request itself is not valid (422, the field is named in
`errors`), else the rule of the policy that is broken first (403, named in `rule`). Rules in `LISTED_ONLY` take a caller
with lists to break them; all others hold for every caller.

`OPEN` and `LISTED` are the tables of two callers, as they stand in the callers file.
"""

from typing import NamedTuple

URL, PATH = "webhookUrl", "bucketDirPath"
INVALID = "422"

OPEN: dict[str, object] = {}
"""A caller without lists."""

LISTED: dict[str, object] = {
    "webhook_hosts": ["hooks.example.com", "*.apps.example.org", "Bücher.example"],
    "bucket_dir_prefix": "recordings/acme",
}
"""A caller that may use these hosts and this folder."""

LISTED_ONLY = frozenset({"webhook-hosts", "bucket-prefix"})
"""Rules that a caller without lists cannot break."""


class Hostile(NamedTuple):
    """A value that must be refused."""

    trick: str
    field: str
    value: str
    rule: str


_AT = "recordings/acme"

_URLS: dict[str, dict[str, list[str]]] = {
    "no http address at all": {
        INVALID: [
            "",
            "hooks.example.com/x",
            "//hooks.example.com/x",
            "https:hooks.example.com",
            "https:/hooks.example.com",
            "https:///hooks.example.com",
            "ftp://hooks.example.com/x",
            "gopher://hooks.example.com/_x",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "data:text/html,x",
            "http\u017f://hooks.example.com/",
            "https://?hooks.example.com",
            "https://:443/",
        ],
    },
    "in the clear": {
        "webhook-https": ["http://hooks.example.com/x", "HTTP://hooks.example.com/x", "http://hooks.example.com:443/"],
    },
    "control characters and blanks": {
        INVALID: [
            "https://hooks.example.com/\r\nX-Evil: 1",
            "https://hooks.example.com\r\n.evil.example/",
            "https://hooks.example.com/\tx",
            "https://hooks\t.example.com/",
            "\x00https://hooks.example.com/",
            "https://hooks.example.com/\x00",
            "https://hooks.example.com/\x7f",
            "https://hooks.example.com/\x85x",
            "https://hooks.example.com/\u2028x",
            "https://hooks.example.com/a b",
            " https://hooks.example.com/",
            "https://hooks.example.com/\u00a0",
            "https://hooks.example.com/\u3000",
        ],
    },
    "encoded control characters": {
        "webhook-encoding": [
            "https://hooks.example.com/%0d%0aX-Evil:%201",
            "https://hooks.example.com/%250d%250ax",
            "https://hooks.example.com/?a=%00",
            "https://hooks.example.com/%25250a",
            "https://hooks.example.com/%u000d%u000a",
            "https://hooks.example.com/%c0%8a",
            "https://hooks.example.com/%E2%80%A8",
            "https://hooks.example.com/%2525252525252525252525",
        ],
    },
    "backslashes": {
        INVALID: [
            "https:\\\\evil.example/",
            "https://evil.example\\@hooks.example.com/",
            "https://hooks.example.com\\.evil.example/",
            "https://hooks.example.com/\\evil.example",
            "https:/\\evil.example/",
        ],
    },
    "overlong": {
        INVALID: [
            "https://hooks.example.com/" + "x" * 2048,
            "https://" + "a." * 1100 + "example.com/",
        ],
        "webhook-host-form": [
            "https://" + "a" * 64 + ".example.com/",
            "https://" + "a." * 130 + "example.com/",
            "https://" + "ü" * 60 + ".example.com/",
        ],
    },
    "credentials": {
        "webhook-credentials": [
            "https://user@hooks.example.com/",
            "https://user:password@hooks.example.com/",
            "https://hooks.example.com@evil.example/",
            "https://hooks.example.com:443@evil.example/",
            "https://@hooks.example.com/",
            "https://:@hooks.example.com/",
            "https://a@b@hooks.example.com/",
            "https://hooks.example.com%40evil.example@evil.example/",
            "https://evil.example%23@hooks.example.com/",
            "http://hooks.example.com@127.0.0.1/",
        ],
        INVALID: ["https://user＠hooks.example.com/"],
    },
    "fragment": {
        "webhook-fragment": [
            "https://hooks.example.com/#",
            "https://hooks.example.com/x#y",
            "https://hooks.example.com#@evil.example/",
            "https://hooks.example.com/?a=b#c",
            "https://evil.example#.hooks.example.com/",
        ],
    },
    "ports": {
        INVALID: [
            "https://hooks.example.com:65536/",
            "https://hooks.example.com:-1/",
            "https://hooks.example.com:https/",
            "https://hooks.example.com:443:80/",
            "https://hooks.example.com:４４３/",
        ],
        "webhook-form": [
            "https://hooks.example.com:0/",
            "https://hooks.example.com:00000443/",
        ],
    },
    "an IPv4 address": {
        "webhook-ip-literal": [
            "https://127.0.0.1/",
            "https://10.0.0.1/",
            "https://169.254.169.254/latest/meta-data/",
            "https://100.100.100.200/",
            "https://0.0.0.0/",
            "https://93.184.216.34/",
            "https://127.0.0.1:8443/",
            "https://127.0.0.1./",
            "https://255.255.255.255/",
        ],
    },
    "an IPv4 address in another spelling": {
        "webhook-ip-literal": [
            "https://2130706433/",
            "https://017700000001/",
            "https://0x7f000001/",
            "https://0X7F000001/",
            "https://0x7f.0.0.1/",
            "https://0177.0.0.1/",
            "https://0177.0x0.0.0X1/",
            "https://00000177.0.0.00001/",
            "https://127.1/",
            "https://127.0.1/",
            "https://0/",
            "https://0x/",
            "https://2852039166/",
            "https://169.16689662/",
            "https://4294967295/",
            "https://2130706433./",
            "https://1.2.3.4.5/",
            "https://256.256.256.256/",
            "https://foo.0x7f/",
            "https://hooks.example.com.1/",
        ],
    },
    "an IPv4 address in other characters": {
        "webhook-ip-literal": [
            "https://１２７.0.0.1/",
            "https://127。0。0。1/",
            "https://127．0．0．1/",
            "https://127｡0｡0｡1/",
            "https://127․0․0․1/",
            "https://①②⑦.⓪.⓪.①/",
            "https://𝟏𝟐𝟕.𝟎.𝟎.𝟏/",
            "https://¹²⁷.0.0.1/",
            "https://０ｘ７ｆ.1/",
            "https://१२७.०.०.१/",
            "https://xn--e4bcp.xn--d4b.xn--d4b.xn--e4b/",
            "https://1\u00ad27.0.0.1/",
            "https://127\u200b.0.0.1/",
            "https://%31%32%37.0.0.1/",
            "https://127%2e0%2e0%2e1/",
            "https://%2531%2532%2537.0.0.1/",
            "https://%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1/",
            "https://127%E3%80%820.0.1/",
        ],
    },
    "an IPv6 address": {
        "webhook-ip-literal": [
            "https://[::1]/",
            "https://[::]/",
            "https://[0:0:0:0:0:0:0:1]:8443/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[::FFFF:A9FE:A9FE]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "https://[fe80::1]/",
            "https://[fd00:ec2::254]/latest/",
            "https://[2606:2800:220:1::1]/",
            "https://[fe80::1%25eth0]/",
        ],
        INVALID: [
            "https://[::1/",
            "https://::1/",
            "https://[127.0.0.1]/",
            "https://[hooks.example.com]/",
        ],
    },
    "a private name": {
        "webhook-private-name": [
            "https://localhost/",
            "https://LOCALHOST:8443/",
            "https://localhost./",
            "https://hooks.localhost/",
            "https://printer.local/",
            "https://db.internal/",
            "https://nas.home.arpa/",
            "https://router.lan/",
            "https://wiki.corp/",
            "https://localhost.localdomain/",
            "https://redis/",
            "https://redis.:6379/",
            "https://host.docker.internal/",
            "https://gateway.default.svc/",
            "https://gateway.default.svc.cluster.local/",
            "https://kubernetes.default/",
            "https://vault.service.consul/",
            "https://ipv4only.arpa/",
        ],
    },
    "a metadata service": {
        "webhook-private-name": [
            "https://metadata.google.internal/computeMetadata/v1/",
            "https://Metadata.Google.Internal./computeMetadata/v1/",
            "https://instance-data/latest/meta-data/",
            "https://instance-data.ec2.internal/latest/meta-data/",
            "https://metadata/",
            "https://metadata.packet.net/",
            "https://metadata.tencentyun.com/",
            "https://api.metadata.cloud.ibm.com/",
        ],
    },
    "a private name in other characters": {
        "webhook-private-name": [
            "https://ｌｏｃａｌｈｏｓｔ/",
            "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
            "https://local\u00adhost/",
            "https://local\u200bhost/",
            "https://lo\ufe0fcalhost/",
            "https://printer。local/",
            "https://localhost。/",
            "https://local%68ost/",
            "https://%6c%6f%63%61%6c%68%6f%73%74/",
            "https://metadata%2egoogle%2einternal/",
            "https://metadata․google․internal/",
            "https://lo\u017fcalhost.local/",
        ],
    },
    "a public name of a private address": {
        "webhook-private-name": [
            "https://127.0.0.1.nip.io/",
            "https://app.10-0-0-1.sslip.io/",
            "https://localtest.me/",
            "https://lvh.me/",
        ],
    },
    "a host that readers do not agree on": {
        "webhook-host-form": [
            "https://hooks.example.com%00.evil.example/",
            "https://hooks.example.com%2f.evil.example/",
            "https://hooks%2eexample.com/",
            "https://hooks.example.com%23.evil.example/",
            "https://hooks․example․com/",
            "https://hooks\u200b.example.com/",
            "https://straße.example/",
            "https://STRAẞE.example/",
            "https://ολυμπιακός.example/",
            "https://hooks..example.com/",
            "https://.hooks.example.com/",
            "https://hooks.example.com../",
            "https://hooks_1.example.com/",
            "https://-hooks.example.com/",
            "https://hooks-.example.com/",
            "https://hooks.example.com,evil.example/",
            "https://hooks.example.com;evil.example/",
            "https://hooks.example.com&evil.example/",
            "https://*.example.com/",
            "https://$(id).example.com/",
            "https://xn--a.example/",
            "https://xn--hooks-.example.com/",
            "https://☃.example/",
            "https://\u202ehooks.example.com/",
            "https://\u0300hooks.example.com/",
            "https://℡½.example/",
        ],
        INVALID: [
            "https://hooks.example.com|evil.example/",
            "https://hooks.example.com<evil.example/",
            "https://hooks.example.com／evil.example/",
            "https://hooks.example.com？evil.example/",
            "https://hooks.example.com＃evil.example/",
            "https://℀.example/",
        ],
    },
    "a host that is not listed": {
        "webhook-hosts": [
            "https://evil.example/",
            "https://example.com/",
            "https://a.hooks.example.com/",
            "https://xhooks.example.com/",
            "https://hooks.example.com.evil.example/",
            "https://hooks-example.com/",
            "https://apps.example.org/",
            "https://evilapps.example.org/",
            "https://apps.example.org.evil.example/",
            "https://evil.example/?hooks.example.com",
            "https://evil.example/hooks.example.com",
            "https://evil.example?@hooks.example.com/",
            "https://hооks.example.com/",
            "https://hooks.examp1e.com/",
            "https://xn--hks-jwa0a.example.com/",
            "https://bucher.example/",
            "https://१.apps.example.com/",
        ],
    },
    "a second look": {
        INVALID: [
            "https://hooks.example.com\uff0f.evil.example/",
            "https://hooks.example.com\uff20evil.example/",
            "https://hooks.example.com\uff03x",
            "https://hooks.example.com\uff1a443/",
            "https://hooks.example.com:+443/",
            "https://hooks.example.com:443:443/",
            "https:/\\hooks.example.com",
            "https://hooks.example.com/\u0085",
            "\ufeffhttps://hooks.example.com/",
        ],
        "webhook-ip-literal": [
            "https://0300.0250.0.1/",
            "https://0xA9.0xFE.0xA9.0xFE/",
            "https://169.254.43518/",
            "https://\u0967\u0968\u096d.0.0.1/",
            "https://[0:0:0:0:0:ffff:169.254.169.254]/",
            "https://[v1.x]/",
            "HtTpS://127.0.0.1/",
        ],
        "webhook-private-name": [
            "https://\u24dbocalhost/",
            "https://loc\u00adalhost/",
            "https://METADATA.GOOGLE.INTERNAL./",
            "https://127.0.0.1.sslip.io./",
            "https://169-254-169-254.nip.io/",
            "https://169.254.169.254.traefik.me/",
            "https://7f000001.01010101.rbndr.us/",
            "https://127.0.0.1.backname.io/",
            "https://nas.fritz.box/",
        ],
        "webhook-host-form": [
            "https://evil.example\u2044.hooks.example.com/",
            "https://hooks.example.com\u2024evil.example/",
            "https://hooks.exa\u2060mple.com/",
            "https://hooks.example%E3%80%82com/",
            "https://h%6Foks.example.com/",
            "https://fa\u00df.example/",
            "https://xn--a/",
        ],
        "webhook-hosts": [
            "https://hooks.example.com\u3002evil.example/",
            "https://\u1e96ooks.example.com/",
            "https://hooks.example.comevil/",
            "https://x.apps.example.org.evil/",
        ],
        "webhook-fragment": ["https://hooks.example.com/&#13;&#10;x"],
        "webhook-encoding": ["https://hooks.example.com/%250d%250aX"],
    },
}

_PATHS: dict[str, dict[str, list[str]]] = {
    "plainly wrong": {
        INVALID: [
            "",
            "/",
            "//recordings/acme",
            "recordings//acme",
            "recordings/acme//",
            "s3://bucket/recordings",
            "recordings/acme\\x",
            "..\\..\\etc",
            "recordings/acme/\x00",
            "recordings/acme/\r\nx",
            "recordings/acme/\u2028x",
            "recordings/acme/\x85",
            "x" * 513,
        ],
    },
    "traversal": {
        INVALID: [
            "..",
            ".",
            "../acme",
            _AT + "/..",
            _AT + "/../globex",
            _AT + "/./x",
            "./" + _AT,
        ],
    },
    "traversal with ornaments": {
        "bucket-traversal": [
            _AT + "/.../x",
            _AT + "/.. /x",
            _AT + "/ ../x",
            _AT + "/. ./x",
            _AT + "/..\u3000/x",
            _AT + "/..;/x",
            _AT + "/..;a=b/x",
        ],
    },
    "traversal, encoded": {
        "bucket-traversal": [
            _AT + "/%2e%2e/x",
            _AT + "/%2E%2E/x",
            _AT + "/.%2e/x",
            _AT + "/%2e./x",
            _AT + "/%2e",
            "%2e%2e/globex",
            _AT + "/..%2fglobex",
            _AT + "/..%5cglobex",
            _AT + "/%2e%2e%2fglobex",
            _AT + "/x%2f..%2f..%2fglobex",
            _AT + "/%u002e%u002e/x",
            _AT + "/&#46;&#46;/x",
            _AT + "/&#x2e;&period;/x",
            _AT + "/..&sol;globex",
        ],
    },
    "traversal, encoded several times": {
        "bucket-traversal": [
            _AT + "/%252e%252e/x",
            _AT + "/%25252e%25252e/x",
            _AT + "/..%252fglobex",
            _AT + "/..%25252fglobex",
            _AT + "/%25%32%65%25%32%65/x",
            _AT + "/%%32%65%%32%65/x",
            _AT + "/&amp;#46;&amp;#46;/x",
            _AT + "/%26%2346;./x",
        ],
    },
    "traversal, overlong or broken UTF-8": {
        "bucket-traversal": [
            _AT + "/%c0%ae%c0%ae/x",
            _AT + "/..%c0%afglobex",
            _AT + "/%e0%80%ae%e0%80%ae/x",
            _AT + "/%f0%80%80%ae./x",
            _AT + "/..%c1%9cglobex",
            _AT + "/%c0%2e%c0%2e/x",
        ],
    },
    "traversal in lookalikes": {
        "bucket-traversal": [
            _AT + "/․․/x",
            _AT + "/‥/x",
            _AT + "/…/x",
            _AT + "/．．/x",
            _AT + "/﹒﹒/x",
            _AT + "/。。/x",
            _AT + "/｡｡/x",
            _AT + "/.\u200b./x",
            _AT + "/.\u00ad./x",
            _AT + "/.\ufe0f./x",
            _AT + "/..／globex",
            _AT + "/..∕globex",
            _AT + "/..⁄globex",
            _AT + "/..＼globex",
            _AT + "/..∖globex",
            _AT + "/%E2%80%A4%E2%80%A4/x",
            _AT + "/％２ｅ％２ｅ/x",
            _AT + "/..%EF%BC%8Fglobex",
        ],
    },
    "hidden slashes and control characters": {
        "bucket-encoding": [
            _AT + "%2fx",
            _AT + "/a%2Fb",
            _AT + "/a%252fb",
            _AT + "/a%5cb",
            _AT + "/a／b",
            _AT + "/a∕b",
            _AT + "/a⁄b",
            _AT + "/a╱b",
            _AT + "/a＼b",
            _AT + "/a﹨b",
            _AT + "/a&#47;b",
            _AT + "/a%u2215b",
            _AT + "/a%c0%afb",
            _AT + "/a%00",
            _AT + "/a%0d%0ab",
            _AT + "/a%E2%80%A8b",
            _AT + "/%25252525252525252541",
        ],
    },
    "another folder": {
        "bucket-prefix": [
            "recordings",
            "recordings/acm",
            "recordings/acmeevil",
            "recordings/acme-evil/x",
            "recordings/acme evil",
            "recordings/Acme/x",
            "Recordings/acme/x",
            "recordings/acme./x",
            "recordings/acme\u00a0/x",
            "recordings/acme\u200b/x",
            "recordings/аcme/x",
            "recordings/%61cme/x",
            "recordings/globex/acme",
            "globex/recordings/acme",
            " recordings/acme",
            "x",
        ],
    },
    "a second look": {
        "bucket-traversal": [
            "recordings/acme/&period;&period;/x",
            "recordings/acme/.\u200d./x",
            "recordings/acme/\u202e..",
            "recordings/acme/..%5cx",
            "recordings/acme%2f../x",
            "recordings/acme/%f0%80%80%ae.",
            "recordings/acme/%e2%80%a5/x",
        ],
        "bucket-encoding": [
            "recordings/acme/a&sol;b",
            "recordings/acme/a&bsol;b",
            "recordings/acme/..%00/x",
            "recordings%2facme/x",
        ],
    },
}

HOSTILE: tuple[Hostile, ...] = tuple(
    Hostile(trick, field, value, rule)
    for field, table in ((URL, _URLS), (PATH, _PATHS))
    for trick, rules in table.items()
    for rule, values in rules.items()
    for value in values
)
