"""Settings: everything that is wrong is said at once, and nothing that is secret is said at all."""

import ast
import copy
import itertools
import json
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any, get_type_hints

import jwt
import msgspec
import pytest
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.secrets import Secret
from gateway.settings import model as settings_module
from gateway.settings.load import SettingsError, load, warnings
from gateway.settings.model import Settings
from gateway.settings.table import SETTINGS, describe

ENOUGH = {
    "GATEWAY_REDIS_URL": "redis://:hunter2@redis.internal:6379/0?password=hunter3",
    "GATEWAY_VIDEOSDK_TOKEN": "hunter4-token",
    "GATEWAY_AUTH": "none",
}
KEY_AND_SECRET = {
    "GATEWAY_REDIS_URL": "unix:///run/valkey.sock",
    "GATEWAY_VIDEOSDK_API_KEY": "hunter5-key",
    "GATEWAY_VIDEOSDK_SECRET": "hunter6-secret",
    "GATEWAY_AUTH": "none",
}

_AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIHrMIGeoAMCAQICAQEwBQYDK2VwMBQxEjAQBgNVBAMMCWF1dGhvcml0eTAgFw0y
NjAxMDEwMDAwMDBaGA8yMTI2MDEwMTAwMDAwMFowFDESMBAGA1UEAwwJYXV0aG9y
aXR5MCowBQYDK2VwAyEANF0Ykkfp8pskXR3oObtNjWD97Aoog0aj95yBmExJt5ij
EzARMA8GA1UdEwEB/wQFMAMBAf8wBQYDK2VwA0EAMEGW1C50/VSjvj7l+kBG1Rkb
m7cWmBExh0r+EI1kezvuvdkyTRV7f3R7LnIb8QajfMDDpo2jU8k0mT/JcoYLCw==
-----END CERTIFICATE-----
"""


def problems(environ: dict[str, str]) -> tuple[str, ...]:
    """Load what must fail, and return what is said about it."""
    with pytest.raises(SettingsError) as failure:
        load(environ)
    assert str(failure.value) == "\n".join(failure.value.problems)
    return failure.value.problems


def test_defaults_are_those_of_the_design():
    """With the least that is required, everything else has its documented default."""
    settings = load(ENOUGH)
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8080, 1)
    assert settings.videosdk_url == "https://api.videosdk.live"
    assert settings.upstream_timeout == timedelta(seconds=10)
    assert settings.send_window == timedelta(seconds=2)
    assert settings.settle == timedelta(seconds=5)
    assert settings.lease == timedelta(seconds=4)
    assert settings.trust == timedelta(seconds=10)
    assert settings.request_deadline == timedelta(seconds=30)
    assert settings.drain == timedelta(0)
    assert settings.quiet == timedelta(seconds=17)
    assert (settings.verify_absent, settings.auth, settings.callers_file) == ("auto", "none", None)
    assert (settings.log_level, settings.log_format) == ("info", "json")
    assert settings.redis_url.reveal() == ENOUGH["GATEWAY_REDIS_URL"]
    assert settings.videosdk_token == Secret("hunter4-token")
    assert (settings.videosdk_api_key, settings.videosdk_secret) == (None, None)


def test_table_and_fields_are_the_same():
    """Every row of the table is a field and the other way round; defaults parse; every field has a docstring."""
    fields = [*(row.field for row in SETTINGS), "mounted"]
    assert fields == list(get_type_hints(Settings)) == list(Settings.__struct_fields__)
    for row in SETTINGS:
        assert row.doc.endswith(".")
        assert row.default is None or row.value_type.show(row.value_type.parse(row.default)) == row.default
        assert not (row.required and row.default is not None)
    (body,) = (
        node.body
        for node in ast.parse(Path(settings_module.__file__).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    followers = [after for node, after in itertools.pairwise(body) if isinstance(node, ast.AnnAssign)]
    assert len(followers) == len(fields)
    assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in followers)


def test_setting_of_blanks_is_absent():
    """Blanks around a value do not count, and a value of blanks is no value."""
    settings = load({**ENOUGH, "GATEWAY_PORT": " 9000\n", "GATEWAY_HOST": "  ", "GATEWAY_VIDEOSDK_SECRET": ""})
    assert (settings.port, settings.host) == (9000, "127.0.0.1")
    assert problems({**ENOUGH, "GATEWAY_REDIS_URL": " \t"})[0].startswith("GATEWAY_REDIS_URL: missing")


def test_setting_names_of_others_are_ignored():
    """Only GATEWAY_ names are looked at, and an empty unknown one is absent."""
    assert load({**ENOUGH, "PATH": "/bin", "REDIS_URL": "x", "GATEWAY_OLD": ""}) == load(ENOUGH)


def test_settings_from_an_empty_environment_name_all_that_is_missing():
    """An empty environment lists Redis, the credentials and the callers."""
    assert [problem.partition(":")[0] for problem in problems({})] == [
        "GATEWAY_REDIS_URL",
        "GATEWAY_VIDEOSDK_TOKEN",
        "GATEWAY_CALLERS_FILE",
    ]


def test_settings_with_several_mistakes_report_all_at_once():
    """One reading reports unknown names, wrong values, missing values and broken relations together."""
    said = problems(
        {
            "GATEWAY_PRT": "1",
            "GATEWAY_PORT": "eighty",
            "GATEWAY_WORKERS": "0",
            "GATEWAY_LEASE_SECONDS": "2.5",
            "GATEWAY_TRUST_SECONDS": "-1",
            "GATEWAY_REQUEST_DEADLINE_SECONDS": "17",
            "GATEWAY_LOG_FORMAT": "xml",
            "GATEWAY_VIDEOSDK_SECRET": "s",
        }
    )
    assert sorted(problem.partition(":")[0] for problem in said) == [
        "GATEWAY_CALLERS_FILE",
        "GATEWAY_LEASE_SECONDS",
        "GATEWAY_LOG_FORMAT",
        "GATEWAY_PORT",
        "GATEWAY_PRT",
        "GATEWAY_REDIS_URL",
        "GATEWAY_REQUEST_DEADLINE_SECONDS",
        "GATEWAY_TRUST_SECONDS",
        "GATEWAY_VIDEOSDK_API_KEY",
        "GATEWAY_WORKERS",
    ]
    assert all("expected" in problem for problem in said)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("GATEWAY_PRT", "GATEWAY_PORT"),
        ("GATEWAY_VIDEOSDK_APIKEY", "GATEWAY_VIDEOSDK_API_KEY"),
        ("GATEWAY_VIDEOSDK_TOKENFILE", "GATEWAY_VIDEOSDK_TOKEN_FILE"),
        ("GATEWAY_LEASE", "GATEWAY_LEASE_SECONDS"),
    ],
)
def test_unknown_names_suggest_the_nearest(name: str, nearest: str):
    """A misspelt name is refused and the nearest known one is named."""
    assert problems({**ENOUGH, name: "x"}) == (f"{name}: unknown; expected {nearest}, if that is meant",)


def test_names_of_the_terminals_client_are_no_settings():
    """What `gateway start` and `gateway watch` read may stand in the environment of a gateway too."""
    clients = {"GATEWAY_ADDRESS": "http://gateway", "GATEWAY_KEY": "key", "GATEWAY_KEY_FILE": "file"}
    assert load({**ENOUGH, **clients}) == load(ENOUGH)


def test_names_that_kubernetes_injects_are_explained():
    """A Service called gateway puts its own GATEWAY_ names into every pod; the message says how to stop that."""
    (said,) = problems({**ENOUGH, "GATEWAY_PORT_8080_TCP_ADDR": "10.0.0.1"})
    assert "enableServiceLinks: false" in said
    # It hides no other name that is unknown.
    both = problems({**ENOUGH, "GATEWAY_PORT_8080_TCP_ADDR": "10.0.0.1", "GATEWAY_PRT": "1"})
    assert [problem.partition(":")[0] for problem in both] == ["GATEWAY_PORT_8080_TCP_ADDR", "GATEWAY_PRT"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("GATEWAY_HOST", "http://0.0.0.0"),
        ("GATEWAY_HOST", "a b"),
        ("GATEWAY_PORT", "65536"),
        ("GATEWAY_PORT", "８０"),
        ("GATEWAY_PORT", "tcp://10.0.0.1:80"),
        ("GATEWAY_WORKERS", "1.5"),
        ("GATEWAY_UPSTREAM_TIMEOUT_SECONDS", "0"),
        ("GATEWAY_UPSTREAM_TIMEOUT_SECONDS", "nan"),
        ("GATEWAY_UPSTREAM_TIMEOUT_SECONDS", "1e1"),
        ("GATEWAY_SEND_WINDOW_SECONDS", "31"),
        ("GATEWAY_SETTLE_SECONDS", "5s"),
        ("GATEWAY_TRUST_SECONDS", "inf"),
        ("GATEWAY_REQUEST_DEADLINE_SECONDS", "0"),
        ("GATEWAY_VERIFY_ABSENT", "sometimes"),
        ("GATEWAY_AUTH", "jwt"),
        ("GATEWAY_CALLERS_FILE", "/nonexistent/callers.toml"),
        ("GATEWAY_CALLERS_FILE", "/"),
        ("GATEWAY_LOG_LEVEL", "loud"),
        ("GATEWAY_VIDEOSDK_TOKEN", "two words"),
        ("GATEWAY_VIDEOSDK_URL", "api.videosdk.live"),
        ("GATEWAY_VIDEOSDK_URL", "ftp://api.videosdk.live"),
        ("GATEWAY_VIDEOSDK_URL", "https://"),
        ("GATEWAY_VIDEOSDK_URL", "https://user:hunter7@api.videosdk.live"),
        ("GATEWAY_VIDEOSDK_URL", "https://api.videosdk.live?key=hunter7"),
        ("GATEWAY_VIDEOSDK_URL", "https://api.videosdk.live#x"),
        ("GATEWAY_VIDEOSDK_URL", "https://api.videosdk.live:https"),
        ("GATEWAY_VIDEOSDK_URL", "https://[::1"),
        ("GATEWAY_VIDEOSDK_WEBHOOK_KEY_FILE", "/nonexistent/key.pem"),
        ("GATEWAY_VIDEOSDK_WEBHOOK_KEY_FILE", "/"),
        ("GATEWAY_VIDEOSDK_WEBHOOK_KEY_FILE", "/etc/hosts"),
        ("GATEWAY_PUBLIC_URL", "gateway.example.com"),
        ("GATEWAY_PUBLIC_URL", "http://gateway.example.com"),
        ("GATEWAY_PUBLIC_URL", "http://127.0.0.1.example.com"),
        ("GATEWAY_PUBLIC_URL", "http://10.0.0.1:8080"),
        ("GATEWAY_PUBLIC_URL", "ftp://gateway.example.com"),
        ("GATEWAY_PUBLIC_URL", "https://"),
        ("GATEWAY_PUBLIC_URL", "https://user:hunter7@gateway.example.com"),
        ("GATEWAY_PUBLIC_URL", "https://gateway.example.com/?key=hunter7"),
        ("GATEWAY_PUBLIC_URL", "https://gateway.example.com/#x"),
        ("GATEWAY_JOIN_TOKENS", "yes"),
        ("GATEWAY_FILE_FORMATS", "mp3"),
        ("GATEWAY_FILE_FORMATS", "webm;mp4"),
        ("GATEWAY_FILE_FORMATS", ",mp4"),
        ("GATEWAY_FILE_FORMATS", "webm,,mp4"),
        ("GATEWAY_CORS_ORIGINS", "*"),
        ("GATEWAY_CORS_ORIGINS", "https://*:443"),
        ("GATEWAY_CORS_ORIGINS", "https://*.com"),
        ("GATEWAY_CORS_ORIGINS", "null"),
        ("GATEWAY_CORS_ORIGINS", "app.lessons.example"),
        ("GATEWAY_CORS_ORIGINS", "capacitor://*.localhost"),
        ("GATEWAY_CORS_ORIGINS", "capacitor://a b"),
        ("GATEWAY_CORS_ORIGINS", "https://app.example.com/"),
        ("GATEWAY_CORS_ORIGINS", "https://app.example.com,,https://b.example"),
        ("GATEWAY_CORS_ORIGINS", "https://user:hunter7@app.example.com"),
        ("GATEWAY_IDEMPOTENCY_HOURS", "0"),
        ("GATEWAY_CALLER_STARTS_PER_MINUTE", "-1"),
        ("GATEWAY_TRACK_STARTS_PER_MINUTE", "1.5"),
        ("GATEWAY_UPSTREAM_CONCURRENCY", "0"),
        ("GATEWAY_UPSTREAM_CALLS_PER_SECOND", "1e3"),
        ("GATEWAY_REDIS_CA_FILE", "/nowhere"),
        ("GATEWAY_REDIS_CA_FILE", "/etc/hosts"),
        ("GATEWAY_UPSTREAM_PROXY", "https://user:hunter7@proxy"),
        ("GATEWAY_UPSTREAM_PROXY", "proxy.example:3128"),
        ("GATEWAY_UPSTREAM_PROXY", "http://user:hunter7/@proxy"),
        ("GATEWAY_UPSTREAM_PROXY", "http://proxy:port"),
        ("GATEWAY_UPSTREAM_PROXY", "http://proxy/path"),
        ("GATEWAY_UPSTREAM_PROXY", "http://proxy:3128#hunter7"),
        ("GATEWAY_REDIS_URL", "http://redis"),
        ("GATEWAY_REDIS_URL", "redis://"),
        ("GATEWAY_REDIS_URL", "redis:///0"),
        ("GATEWAY_REDIS_URL", "redis://host:port"),
        ("GATEWAY_REDIS_URL", "redis://a:1,b:2"),
        ("GATEWAY_REDIS_URL", "redis://:hunter7/x@host:6379"),
        ("GATEWAY_REDIS_URL", "redis://user:12/hunter7@host:6379"),
        ("GATEWAY_REDIS_URL", "redis://user:12?hunter7@host:6379"),
        ("GATEWAY_REDIS_URL", "redis://:hunter#7@host"),
        ("GATEWAY_REDIS_URL", "unix://"),
        ("GATEWAY_REDIS_URL", "redis+sentinel://a:1,,b:2/main"),
    ],
)
def test_wrong_values_are_refused_and_not_repeated(name: str, text: str):
    """A wrong value is one problem, which names the variable and what is expected, but does not repeat the value."""
    (said,) = problems({**ENOUGH, name: text})
    assert said.startswith(f"{name}: ")
    assert "; expected " in said
    assert "hunter" not in said
    assert len(text) < 4 or text not in said


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "rediss://user:p%40ss@redis.internal:6380/1",
        "unix:///tmp/valkey.sock?db=1",
        "redis+sentinel://:p@a:26379,b:26379,c/main/0",
        "rediss+sentinel://a/main",
        "redis+cluster://a:7000,b:7001",
        "rediss+cluster://:p@[::1]:7000",
    ],
)
def test_every_redis_scheme_is_taken_as_written(url: str):
    """One server, a socket, Sentinels and Clusters are accepted, and the URL reaches the coordinator unchanged."""
    assert load({**ENOUGH, "GATEWAY_REDIS_URL": url}).redis_url.reveal() == url


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("https://gateway.example.com", "https://gateway.example.com"),
        ("https://example.com:8443/recordings//", "https://example.com:8443/recordings"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://localhost:8080", "http://localhost:8080"),
    ],
)
def test_public_url_is_https_or_of_this_machine(text: str, read: str):
    """It may have a path, and loses the slashes at its end."""
    assert load({**ENOUGH, "GATEWAY_PUBLIC_URL": text}).public_url == read


def test_public_url_of_this_machine_is_warned_of():
    """An address of this machine is of no use to a VideoSDK elsewhere; to a simulator on this machine it is."""
    here = {**ENOUGH, "GATEWAY_PUBLIC_URL": "http://127.0.0.1:8080"}
    assert any("GATEWAY_PUBLIC_URL" in warning for warning in warnings(load(here)))
    both = {**here, "GATEWAY_VIDEOSDK_URL": "http://127.0.0.1:9000"}
    assert not any("GATEWAY_PUBLIC_URL" in warning for warning in warnings(load(both)))
    elsewhere = {**ENOUGH, "GATEWAY_PUBLIC_URL": "https://gateway.example.com"}
    assert not any("GATEWAY_PUBLIC_URL" in warning for warning in warnings(load(elsewhere)))


def test_webhook_key_is_read_with_the_settings(tmp_path: Path):
    """A file with a public key is taken; one with a private key is not, and is not repeated."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = tmp_path / "key.pem"
    pem = serialization.Encoding.PEM
    file.write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.PKCS1))
    assert load({**ENOUGH, "GATEWAY_VIDEOSDK_WEBHOOK_KEY_FILE": str(file)}).videosdk_webhook_key_file == file
    file.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    (said,) = problems({**ENOUGH, "GATEWAY_VIDEOSDK_WEBHOOK_KEY_FILE": str(file)})
    assert "holds a private key" in said
    assert "MII" not in said


def test_values_are_read_leniently_where_that_is_safe(tmp_path: Path):
    """Capital letters in choices, decimals in seconds and slashes after a URL are fine."""
    callers = tmp_path / "callers.toml"
    callers.touch()
    settings = load(
        {
            **ENOUGH,
            "GATEWAY_LOG_LEVEL": "DEBUG",
            "GATEWAY_HOST": "::",
            "GATEWAY_SETTLE_SECONDS": "0.25",
            "GATEWAY_VIDEOSDK_URL": "http://127.0.0.1:9000/base//",
            "GATEWAY_AUTH": "callers",
            "GATEWAY_CALLERS_FILE": str(callers),
        }
    )
    assert (settings.log_level, settings.host) == ("debug", "::")
    assert settings.settle == timedelta(milliseconds=250)
    assert settings.videosdk_url == "http://127.0.0.1:9000/base"
    assert settings.callers_file == callers


@pytest.mark.parametrize(
    ("credentials", "named"),
    [
        ({"TOKEN": "t", "API_KEY": "k", "SECRET": "s"}, "TOKEN"),
        ({"TOKEN": "t", "SECRET": "s"}, "TOKEN"),
        ({"API_KEY": "k"}, "SECRET"),
        ({"SECRET": "s"}, "API_KEY"),
        ({}, "TOKEN"),
    ],
)
def test_there_is_exactly_one_way_to_get_a_token(credentials: dict[str, str], named: str):
    """A token, or key and secret: neither both nor half of it nor nothing."""
    environ = {"GATEWAY_REDIS_URL": "redis://r", "GATEWAY_AUTH": "none"}
    (said,) = problems(environ | {f"GATEWAY_VIDEOSDK_{name}": text for name, text in credentials.items()})
    assert said.startswith(f"GATEWAY_VIDEOSDK_{named}: ")


def test_credentials_come_from_files_too(tmp_path: Path):
    """Each credential may be the stripped content of a file, even one written by an editor with a byte order mark."""
    (tmp_path / "key").write_text("hunter5-key\n")
    (tmp_path / "secret").write_bytes(b"\xef\xbb\xbf hunter6-secret \r\n")
    environ = {"GATEWAY_REDIS_URL": "redis://r", "GATEWAY_AUTH": "none"}
    settings = load(
        environ
        | {
            "GATEWAY_VIDEOSDK_API_KEY_FILE": str(tmp_path / "key"),
            "GATEWAY_VIDEOSDK_SECRET_FILE": str(tmp_path / "secret"),
        }
    )
    assert settings.videosdk_api_key == "hunter5-key"
    assert settings.videosdk_secret == Secret("hunter6-secret")
    (tmp_path / "token").write_text("hunter4-token")
    settings = load(environ | {"GATEWAY_VIDEOSDK_TOKEN_FILE": str(tmp_path / "token")})
    assert settings.videosdk_token == Secret("hunter4-token")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b" \n", "is empty"),
        (b"hunter8 " * 10_000, "longer than any value"),
        (b"hunter8\nhunter8", "control characters"),
        ("hunter8ë".encode(), "beyond ASCII"),
        (b"\nhunter8\xff", "is not UTF-8 in line 2"),
        ("hunter8".encode("utf-16"), "is UTF-16: save it as UTF-8"),
    ],
)
def test_unusable_credential_files_are_problems(tmp_path: Path, content: bytes | None, reason: str):
    """A file that cannot be read or holds no value is named by its variable and its reason, without its content."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    environ = {"GATEWAY_REDIS_URL": "redis://r", "GATEWAY_AUTH": "none"}
    (said,) = problems(environ | {"GATEWAY_VIDEOSDK_TOKEN_FILE": str(path)})
    assert said.startswith("GATEWAY_VIDEOSDK_TOKEN_FILE: ")
    assert reason in said
    assert "hunter8" not in said


def test_secret_in_place_of_a_path_is_not_shown():
    """A token that was put where its file belongs is neither in the message nor in what caused it."""
    with pytest.raises(SettingsError) as failure:
        load({"GATEWAY_REDIS_URL": "redis://r", "GATEWAY_AUTH": "none", "GATEWAY_VIDEOSDK_TOKEN_FILE": "hunter9\0"})
    assert "hunter9" not in repr(failure.value)
    assert failure.value.__cause__ is None
    assert failure.value.__context__ is None


def test_value_and_file_together_are_a_problem(tmp_path: Path):
    """A credential given twice is refused, whichever of the two would be right."""
    (tmp_path / "token").write_text("t")
    (said,) = problems({**ENOUGH, "GATEWAY_VIDEOSDK_TOKEN_FILE": str(tmp_path / "token")})
    assert said == "GATEWAY_VIDEOSDK_TOKEN: given also as GATEWAY_VIDEOSDK_TOKEN_FILE; expected one of the two"


def test_files_are_remembered_so_that_they_can_be_read_again(tmp_path: Path):
    """Where a credential came from is kept, and is no secret; what came from the environment has no file."""
    (tmp_path / "secret").write_text("hunter6-secret")
    environ = KEY_AND_SECRET | {"GATEWAY_VIDEOSDK_SECRET": "", "GATEWAY_VIDEOSDK_SECRET_FILE": str(tmp_path / "secret")}
    settings = load(environ)
    assert settings.mounted == {"videosdk_secret": tmp_path / "secret"}
    assert load(KEY_AND_SECRET).mounted == {}
    assert "hunter" not in repr(settings)


@pytest.mark.parametrize(
    ("identity", "named"),
    [
        ({}, "GATEWAY_CALLERS_FILE"),
        ({"GATEWAY_JOIN_TOKENS": "off"}, "GATEWAY_CALLERS_FILE"),
        ({"GATEWAY_JWT_JWKS_URL": "https://id.example/keys", "GATEWAY_JWT_AUDIENCE": "a"}, "GATEWAY_JWT_ISSUER"),
        ({"GATEWAY_JWT_JWKS_URL": "https://id.example/keys", "GATEWAY_JWT_ISSUER": "i"}, "GATEWAY_JWT_AUDIENCE"),
        ({"GATEWAY_JOIN_TOKENS": "on", "GATEWAY_JWT_ISSUER": "i"}, "GATEWAY_JWT_JWKS_URL"),
    ],
)
def test_settings_without_any_authentication_are_refused(identity: dict[str, str], named: str):
    """One way to tell callers apart at least, and each of them whole."""
    (said,) = problems({**KEY_AND_SECRET, "GATEWAY_AUTH": "callers", **identity})
    assert said.startswith(f"{named}: ")


def test_settings_with_one_way_of_authentication_are_enough():
    """Join tokens alone, or JWTs alone, with the address of the keys as it was written."""
    environ = {**KEY_AND_SECRET, "GATEWAY_AUTH": "callers"}
    assert load({**environ, "GATEWAY_JOIN_TOKENS": "Any-Room"}).join_tokens == "any-room"
    company = {"GATEWAY_JWT_ISSUER": "https://id.example/", "GATEWAY_JWT_AUDIENCE": "gateway"}
    url = "https://id.example/keys/?p=policy"
    assert load({**environ, **company, "GATEWAY_JWT_JWKS_URL": url}).jwt_jwks_url == url


def test_join_tokens_need_the_secret_that_signs_them():
    """With a token made elsewhere the gateway cannot verify a join token."""
    (said,) = problems({**ENOUGH, "GATEWAY_JOIN_TOKENS": "on"})
    assert said.startswith("GATEWAY_JOIN_TOKENS: ")


def test_file_formats_are_read_each_once():
    """Blanks, capital letters and repetitions are no difference; without a word it is what VideoSDK documents."""
    assert load(ENOUGH).file_formats == ("webm",)
    assert load({**ENOUGH, "GATEWAY_FILE_FORMATS": "MP4, webm,mp4"}).file_formats == ("mp4", "webm")


def test_origins_are_read_as_browsers_write_them():
    """Capital letters and the usual port are not what a browser sends."""
    given = "HTTPS://App.example.com:443, http://localhost:3000,http://[::1]:80,https://*.example.com,Capacitor://localhost,app://-"
    origins = load({**ENOUGH, "GATEWAY_CORS_ORIGINS": given}).cors_origins
    pages = ("https://app.example.com", "http://localhost:3000", "http://[::1]", "https://*.example.com")
    assert origins == (*pages, "capacitor://localhost", "app://-")


def test_settings_that_are_seldom_meant_are_warned_of(tmp_path: Path):
    """What is wide open is named: no callers, every room, plain http, short secrets, a file that all may write."""
    token = jwt.encode({"apikey": "project"}, "x" * 32)
    safe = {**ENOUGH, "GATEWAY_VIDEOSDK_TOKEN": token}
    company = {
        "GATEWAY_JWT_JWKS_URL": "https://id.example/keys",
        "GATEWAY_JWT_ISSUER": "i",
        "GATEWAY_JWT_AUDIENCE": "a",
        "GATEWAY_AUTH": "callers",
    }
    project = {**KEY_AND_SECRET, **company, "GATEWAY_VIDEOSDK_SECRET": "s" * 32}
    assert warnings(load({**safe, **company})) == warnings(load({**project, "GATEWAY_JOIN_TOKENS": "on"})) == []
    file = tmp_path / "callers.toml"
    file.write_text("")
    file.chmod(0o664)
    assert warnings(load({**safe, **company, "GATEWAY_CALLERS_FILE": str(file)})) == []
    cases: list[tuple[dict[str, str], str]] = [
        (safe, "GATEWAY_AUTH=none"),
        ({**safe, **company, "GATEWAY_JWT_JWKS_URL": "http://id.example/keys"}, "GATEWAY_JWT_JWKS_URL"),
        ({**safe, **company, "GATEWAY_VIDEOSDK_URL": "HTTP://videosdk.example"}, "GATEWAY_VIDEOSDK_URL"),
        ({**safe, **company, "GATEWAY_VIDEOSDK_TOKEN": "opaque-token"}, "GATEWAY_VIDEOSDK_TOKEN"),
        ({**safe, **company, "GATEWAY_VIDEOSDK_TOKEN": jwt.encode({"apikey": 1}, "x" * 32)}, "GATEWAY_VIDEOSDK_TOKEN"),
        ({**project, "GATEWAY_JOIN_TOKENS": "any-room"}, "GATEWAY_JOIN_TOKENS=any-room:"),
        ({**project, "GATEWAY_VIDEOSDK_SECRET": "s" * 31}, "GATEWAY_VIDEOSDK_SECRET"),
    ]
    for environ, named in cases:
        assert [text.split()[0] for text in warnings(load(environ))] == [named]
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    moved = open_folder / "callers.toml"
    moved.write_text("")
    for changed, mode, warned in (
        (moved, 0o666, True),
        (moved, 0o644, False),
        (open_folder, 0o777, True),
        (open_folder, 0o1777, False),
    ):
        changed.chmod(mode)
        said = warnings(load({**safe, **company, "GATEWAY_CALLERS_FILE": str(moved)}))
        assert [text.split()[0] for text in said] == ["GATEWAY_CALLERS_FILE"] * warned


@pytest.mark.parametrize(("lease", "right"), [("2.5", True), ("2.4", False)])
def test_lease_must_outlast_the_send_window(lease: str, right: bool):
    """A claim must not lapse before its request is sent: the lease is at least the window and a second."""
    environ = {**ENOUGH, "GATEWAY_SEND_WINDOW_SECONDS": "1.5", "GATEWAY_LEASE_SECONDS": lease}
    if right:
        assert load(environ).lease == timedelta(seconds=2.5)
    else:
        assert "GATEWAY_SEND_WINDOW_SECONDS + 1 = 2.5" in problems(environ)[0]


def test_request_deadline_must_outlast_the_quiet_time():
    """The deadline of a request is longer than the quiet time, or no caller would learn what a crashed leader did."""
    (said,) = problems({**ENOUGH, "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "23"})
    assert said.startswith("GATEWAY_REQUEST_DEADLINE_SECONDS: ")
    assert "crashed" in said
    assert said.endswith("= 30")


@pytest.mark.parametrize("environ", [ENOUGH, KEY_AND_SECRET])
def test_settings_in_any_shape_show_no_secret(environ: dict[str, str]):
    """Neither repr, str, format, description, encoders nor a log renderer show a secret."""
    settings = load(environ)
    shapes = [repr(settings), str(settings), f"{settings}", f"{settings.redis_url:>40}", repr(describe(settings))]
    shapes.append(json.dumps(msgspec.structs.asdict(settings) | {"videosdk_api_key": None}, default=repr))
    render = structlog.processors.JSONRenderer()
    shapes.append(str(render(None, "info", {"settings": settings, "url": settings.redis_url})))
    for shape in shapes:
        assert "hunter" not in shape
        assert "[secret]" in shape or shape == "Settings()"
    for encode in (msgspec.json.encode, msgspec.to_builtins, pickle.dumps):
        with pytest.raises(TypeError):
            encode(settings)


def test_description_distinguishes_default_from_set():
    """`describe` lists every variable in order, what it holds, and whether it was set."""
    rows = describe(load({**ENOUGH, "GATEWAY_PORT": "9000", "GATEWAY_TRUST_SECONDS": "2.50"}))
    assert [name for name, _, _ in rows] == [row.variable for row in SETTINGS]
    shown = {name: (value, origin) for name, value, origin in rows}
    assert shown["GATEWAY_PORT"] == ("9000", "set")
    assert shown["GATEWAY_HOST"] == ("127.0.0.1", "default")
    assert shown["GATEWAY_TRUST_SECONDS"] == ("2.5", "set")
    assert shown["GATEWAY_VIDEOSDK_TOKEN"] == ("[secret]", "set")
    assert shown["GATEWAY_VIDEOSDK_SECRET"] == ("(not set)", "default")
    assert shown["GATEWAY_REDIS_URL"] == ("redis://[secret]@redis.internal:6379/0?[secret]", "set")


def test_settings_are_frozen():
    """The settings of a running gateway cannot be changed."""
    settings: Any = load(ENOUGH)
    with pytest.raises(AttributeError):
        settings.port = 1


def test_secrets_compare_and_copy_like_values():
    """Equal secrets are equal and hash alike, an empty one is false, and a copy is the secret itself."""
    secret = Secret("hunter2")
    assert secret == Secret("hunter2")
    assert hash(secret) == hash(Secret("hunter2"))
    assert secret != Secret("other")
    assert secret != "hunter2"
    assert bool(secret)
    assert not Secret("")
    assert copy.copy(secret) is copy.deepcopy(secret) is secret


def test_redis_ca_file_without_a_certificate_is_refused(tmp_path: Path):
    """A file that can be read and holds no certificate would trust nothing, or something else than what was meant."""
    file = tmp_path / "authority.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\n")
    environ = {**ENOUGH, "GATEWAY_REDIS_URL": "rediss://a", "GATEWAY_REDIS_CA_FILE": str(file)}
    (said,) = problems(environ)
    assert said.startswith("GATEWAY_REDIS_CA_FILE: holds no certificate")


def test_redis_ca_file_without_tls_is_refused(tmp_path: Path):
    """A CA file beside an address without TLS would suggest encryption that is not there."""
    file = tmp_path / "authority.pem"
    file.write_text(_AUTHORITY)
    environ = {**ENOUGH, "GATEWAY_REDIS_CA_FILE": str(file)}
    (said,) = problems(environ)
    assert said.startswith("GATEWAY_REDIS_CA_FILE: useless without TLS")
    for url in ("rediss://a", "rediss+sentinel://a:1/main", "rediss+cluster://a:1"):
        assert load({**environ, "GATEWAY_REDIS_URL": url}).redis_ca_file == file
