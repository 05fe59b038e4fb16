"""The contract: committed, true to the code, and kept by the running gateway."""

import difflib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway import __version__
from gateway.api.openapi import contract
from gateway.errors import PROBLEMS
from gateway.recordings import Outcome, Status
from gateway.sandbox.faults import Fault
from gateway.sandbox.simulator import Simulator
from tests import harness, problems_page
from tests.api.honest_inputs import HONEST, Honest
from tests.api_client import START, STOP, ApiClient, NewTrack

COMMITTED = Path(__file__).parents[2] / "openapi" / "gateway.yaml"
SHOW = "/v1/recordings/track/{roomId}/{participantId}/{kind}"
HOOK = "/v1/webhooks/videosdk"
METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The contract as it is committed."""
    return yaml.safe_load(COMMITTED.read_text("utf-8"))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every operation with its path."""
    for path, item in document["paths"].items():
        yield from ((path, operation) for method, operation in item.items() if method in METHODS)


def validate(document: dict[str, Any], content: object, schema: dict[str, Any]) -> None:
    """Check JSON content against a schema of the contract."""
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole, format_checker=FormatChecker()).validate(content)


def check(document: dict[str, Any], answer: httpx.Response, method: str, path: str) -> None:
    """Check a real answer against what the contract says of this operation and status."""
    responses = document["paths"][path][method]["responses"]
    assert str(answer.status_code) in responses, answer.text
    described = responses[str(answer.status_code)]
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    assert media_type in described.get("content", {"": {}})
    if answer.content:
        validate(document, answer.json(), described["content"][media_type]["schema"])
    known = {name.lower() for name in described["headers"]}
    of_interest = {"location", "retry-after", "www-authenticate", "link", "x-request-id"}
    assert {name for name in answer.headers if name in of_interest} <= known
    if media_type == "application/problem+json":
        documented = {example["value"]["type"] for example in described["content"][media_type]["examples"].values()}
        assert answer.json()["type"] in documented


def printed(seed: str = "0") -> str:
    """Return what the command prints, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", "openapi"],
        env={"PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    ).stdout


def test_contract_in_the_repository_equals_the_printed_one() -> None:
    """`openapi/gateway.yaml` is what `gateway openapi` prints, which needs no settings."""
    text = printed()
    drift = "".join(
        difflib.unified_diff(
            COMMITTED.read_text("utf-8").splitlines(keepends=True),
            text.splitlines(keepends=True),
            "openapi/gateway.yaml",
            "gateway openapi",
            n=2,
        )
    )
    assert not drift, f"The API has changed, or the file was edited. Run `make openapi` and commit it:\n{drift}"


def test_contract_in_the_repository_is_the_routes_own() -> None:
    """Made in this process of the routes as they are: every name, status, header and schema."""
    assert yaml.safe_load(COMMITTED.read_text("utf-8")) == contract()


def test_contract_is_the_same_under_every_hash_seed() -> None:
    """Two processes with other hash seeds print the same bytes, with texts of several lines as blocks."""
    text = printed("1")
    assert text == printed("2")
    assert "\n  description: |\n" in text
    assert yaml.safe_load(text) == contract()


def test_callers_page_lists_every_problem() -> None:
    """One row each, in the order of `PROBLEMS`, with its status."""
    listed = [(slug, int(status)) for slug, status, _ in problems_page.rows()]
    assert listed == [(slug, cls.status) for slug, cls in PROBLEMS.items()]


def test_contract_names_retry_after_where_the_callers_page_says_repeat(document: dict[str, Any]) -> None:
    """Each response with a problem that is to be repeated has the header."""
    repeated = {f"/problems/{slug}" for slug, _, repeat in problems_page.rows() if repeat != "no"}
    for path, operation in operations(document):
        for status, answer in operation["responses"].items():
            examples = answer.get("content", {}).get("application/problem+json", {}).get("examples", {})
            if repeated & {example["value"]["type"] for example in examples.values()}:
                assert "Retry-After" in answer["headers"], (path, status)


def test_contract_is_valid_openapi(document: dict[str, Any]) -> None:
    """It is OpenAPI 3.1, with a licence, described tags, and a scheme for keys that every route of ours demands."""
    OpenAPIV31SpecValidator(document).validate()
    assert next(iter(document)) == "openapi"
    assert document["info"]["version"] == __version__
    assert document["info"]["license"]["identifier"] == "MIT"
    assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    for path, operation in operations(document):
        assert set(operation["tags"]) <= described
        assert bool(operation["security"]) == path.startswith("/v1/")


def test_contract_describes_every_operation(document: dict[str, Any]) -> None:
    """Ids are those of the design and unique; summaries, descriptions and parameters are there."""
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    assert {"startTrackRecording", "stopTrackRecording", "getTrackRecording", "listRecordings"} <= set(ids)
    for path, operation in operations(document):
        assert operation["summary"]
        assert operation["description"]
        parameters = operation.get("parameters", ())
        named = {parameter["name"] for parameter in parameters if parameter.get("in") == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
        assert all(parameter["description"] for parameter in parameters if parameter.get("in") == "query")
        assert all(f"{{{name}}}" in path for name in named)


def test_contract_examples_are_valid(document: dict[str, Any]) -> None:
    """Each body has examples, each is valid, and none has members of a framework's own."""
    for path, operation in operations(document):
        contents = [response["content"] for response in operation["responses"].values() if "content" in response]
        if "requestBody" in operation:
            contents.append(operation["requestBody"]["content"])
        for content in contents:
            for body in content.values():
                assert body["examples"], path
                for example in body["examples"].values():
                    assert set(example) <= {"summary", "description", "value"}
                    validate(document, example["value"], body["schema"])


def test_contract_errors_are_problem_documents(document: dict[str, Any]) -> None:
    """Error responses are problem documents in the order of their statuses, each with an example per problem."""
    for path, operation in operations(document):
        statuses = [int(status) for status in operation["responses"]]
        assert statuses == sorted(statuses)
        assert max(statuses) >= 500
        for status, response in operation["responses"].items():
            assert response["description"]
            if status == "204":
                assert "content" not in response
                continue
            if int(status) < 400:
                streams = operation["operationId"] == "streamRoomEvents"
                assert list(response["content"]) == ["text/event-stream" if streams else "application/json"]
                continue
            ((media_type, content),) = response["content"].items()
            assert media_type == "application/problem+json"
            for slug, example in content["examples"].items():
                assert example["value"]["type"] == f"/problems/{slug}"
                assert example["value"]["status"] == PROBLEMS[slug].status == int(status)
                assert "{" not in example["value"]["instance"]
        if path.startswith("/v1/"):
            assert {401, 500, 503} <= set(statuses)
            if operation["operationId"] not in {"receiveVideosdkWebhook", "getCaller"}:
                assert 422 in statuses
                # A batch is for all who may start or stop; each of its items needs its own scope.
                batch = operation["operationId"] == "recordBatch"
                scopes = ["recordings:start", "recordings:stop"] if batch else operation["x-required-scopes"]
                assert len(scopes) == 1 + batch
                assert all(f"`{scope}`" in operation["description"] for scope in scopes)


def test_contract_has_an_example_of_every_problem_and_outcome(document: dict[str, Any]) -> None:
    """No outcome, no status and no problem is left out, but those that no documented route can answer with."""
    named = {
        name
        for _, operation in operations(document)
        for response in operation["responses"].values()
        for content in response.get("content", {}).values()
        for name in content["examples"]
    }
    assert {outcome.value for outcome in Outcome} <= named
    assert {f"is_{status}" for status in Status} <= named
    assert set(PROBLEMS) - named == {"method-not-allowed"}


@pytest.mark.parametrize("row", HONEST, ids=lambda row: ascii(row.value)[1:60])
def test_contract_patterns_accept_honest_values(document: dict[str, Any], row: Honest) -> None:
    """A client that checks its bodies against the contract is never kept from sending what would pass."""
    schema = document["components"]["schemas"]["StartTrackRecording"]["properties"][row.field]
    assert re.search(schema["pattern"], row.value)


@pytest.mark.parametrize(
    "body",
    [
        {"roomId": "a/b", "participantId": "p", "kind": "video"},
        {"roomId": "a", "participantId": "p", "kind": "smell"},
        {"roomId": "a", "participantId": "p"},
        {"roomId": "a", "participantId": "p", "kind": "video", "token": "x"},
        {"roomId": "a", "participantId": "p", "kind": "video", "fileFormat": "mp4"},
        {"roomId": "a", "participantId": "p", "kind": "video", "webhookUrl": 1},
        {"roomId": "a", "participantId": "p", "kind": "video", "bucketDirPath": ""},
    ],
)
def test_contract_schema_refuses_what_the_gateway_refuses(document: dict[str, Any], body: dict[str, Any]) -> None:
    """A client that checks its bodies against the contract finds out before it asks."""
    schema = document["paths"][START]["post"]["requestBody"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": document["components"]}
    assert not Draft202012Validator(whole).is_valid(body)


@pytest.mark.anyio
async def test_contract_is_served_by_the_gateway(gateway: ApiClient, document: dict[str, Any]) -> None:
    """`/openapi.json` is the same document, and nothing of a framework's stands beside it."""
    answer = await gateway.get("/openapi.json", headers={"authorization": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json() == document
    for path in ("/schema", "/schema/", "/schema/openapi.json", "/schema/swagger", "/schema/redoc"):
        assert (await gateway.get(path)).status_code == 404


@pytest.mark.anyio
async def test_contract_describes_real_answers(
    gateway: ApiClient, simulator: Simulator, document: dict[str, Any], new_track: NewTrack
) -> None:
    """Each sort of answer, good and bad, is described, and is as described."""
    track = new_track(webhookUrl="http://127.0.0.1:9/hook")
    started = await gateway.start(track)
    check(document, started, "post", START)
    check(document, await gateway.start(track), "post", START)
    check(document, await gateway.start({**track, "bucketDirPath": "other"}), "post", START)
    check(document, await gateway.get(started.headers["location"]), "get", SHOW)
    bare = {name: track[name] for name in ("roomId", "participantId", "kind")}
    check(document, await gateway.stop(bare), "post", STOP)
    check(document, await gateway.stop(bare), "post", STOP)

    check(document, await gateway.start({"kind": 1}), "post", START)
    check(
        document, await gateway.post(START, content=b"{", headers={"content-type": "application/json"}), "post", START
    )
    check(document, await gateway.post(START, content=b"{}"), "post", START)
    check(document, await gateway.start({"roomId": "a" * 70_000}), "post", START)
    check(document, await gateway.stop(bare, headers={"authorization": "Bearer no"}), "post", STOP)
    check(document, await gateway.get("/v1/recordings/track/a/b/c"), "get", SHOW)
    check(document, await gateway.get(f"/v1/recordings/track/{bare['roomId']}/nobody/video"), "get", SHOW)

    for status, headers in ((404, {}), (401, {}), (429, {"Retry-After": "2"})):
        simulator.inject(Fault(action="refuse", endpoint="start", status=status, headers=headers, times=2))
        check(document, await gateway.start(new_track()), "post", START)
        simulator.clear_faults()
    simulator.inject(harness.delay("start", 1.5))
    early = await gateway.start(new_track(), headers={"x-request-timeout-ms": "50"})
    assert early.status_code == 504
    check(document, early, "post", START)

    event = msgspec.json.encode({"webhookType": "session-started", "data": {"meetingId": bare["roomId"]}})
    signed = {"videosdk-signature": simulator.sign(event)}
    taken = await gateway.post(HOOK, content=event, headers=signed)
    assert (taken.status_code, taken.content) == (204, b"")
    check(document, taken, "post", HOOK)
    check(document, await gateway.post(HOOK, content=event), "post", HOOK)
    nothing = {"videosdk-signature": simulator.sign(b"")}
    check(document, await gateway.post(HOOK, headers=nothing), "post", HOOK)
    check(document, await gateway.post(HOOK, content=bytes(300_000)), "post", HOOK)
    room = f"/v1/rooms/{bare['roomId']}/events"
    described = "/v1/rooms/{roomId}/events"
    for path in (room, "/v1/rooms/a%5Cb/events"):
        check(document, await gateway.post(f"{path}/tickets"), "post", f"{described}/tickets")
        check(document, await gateway.get(path, params={"ticket": "no"}), "get", described)
    check(document, await gateway.get("/v1/rooms/a%5Cb/events"), "get", described)

    check(document, await gateway.get("/livez"), "get", "/livez")
    check(document, await gateway.get("/readyz"), "get", "/readyz")
