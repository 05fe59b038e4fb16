"""VideoSDK's own Node package takes the simulator for VideoSDK."""

import asyncio
import base64
import json
import os
from pathlib import Path

import msgspec
import pytest

from gateway.api.wire import BODIES, read_body
from gateway.recordings import Mode
from gateway.videosdk.signatures import Signatures, SignatureVerdict
from gateway.videosdk.webhook_keys import FetchedKeys
from tests.browser import node_project

pytestmark = pytest.mark.anyio

PROJECT = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The small Node project, with what its lock file names."""
    return node_project.installed(PROJECT, tmp_path_factory.mktemp("vendor"))


@pytest.fixture
async def seen(project, pair):
    """What the vendor's package made of the simulator."""
    simulator, _ = pair
    environ = {
        "PATH": os.environ["PATH"],
        "VIDEOSDK_API_ENDPOINT": simulator.url,
        "VIDEOSDK_API_KEY": "test-api-key",
        "VIDEOSDK_SECRET": "0123456789abcdef" * 4,
    }
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "node", "drive.mjs", cwd=project, env=environ, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_vendors_package_works_against_the_simulator(seen, simulator):
    """Start, stop, list, get, delete and webhook signatures, with the errors the package tells apart."""
    assert seen["start"] == "track recording started successfully."
    assert seen["startAgain"] == "ResourceConflictError"
    (listed,) = seen["listed"]
    assert (listed["participantId"], listed["kind"], listed["end"]) == ("alice", "video", None)
    assert [entry["participantId"] for entry in seen["participants"]] == ["alice"]
    assert seen["stop"] == "track recording ended successfully."
    assert (seen["stopAgain"], seen["getAgain"]) == ("ValidationError", "RoomNotFoundError")
    assert seen["got"]["id"] == listed["id"]
    assert seen["got"]["files"][0]["filePath"].startswith("mine/")
    assert seen["delete"] == "Track Recording deleted successfully."
    assert [event["webhookType"].rpartition("-")[2] for event in seen["events"]] == [
        "starting",
        "started",
        "stopping",
        "stopped",
    ]
    assert seen["forged"] == seen["unsigned"] == "WebhookVerificationError"
    assert seen["wrongSecret"] == "AuthenticationError"
    first = simulator.calls[0]
    assert list(first.body) == ["roomId", "bucketDirPath", "participantId", "kind", "fileFormat", "webhookUrl"]


STAGES = ["starting", "started", "stopping", "stopped"]


async def test_vendors_package_records_a_participant_and_a_room(seen, simulator):
    """Start, stop, list, get, delete and verified webhooks of both; a room's start is one that the gateway takes."""
    texts = {
        "participant": ("participant recording started successfully.", "participant recording ended successfully."),
        "room": ("Recording started successfully", "Recording ended successfully"),
    }
    for mode, (started, stopped) in texts.items():
        made = seen[mode]
        # A room's start answers a handle, which holds what the service said.
        said = made["start"]["raw"] if mode == "room" else made["start"]
        assert (said, made["startAgain"]) == (started, "ResourceConflictError")
        assert (made["stop"], made["stopAgain"]) == (stopped, "ValidationError")
        (listed,) = made["listed"]
        assert (listed["roomId"], listed["end"], listed.get("participantId")) == (
            "abcd-efgh-ijkl", None, "alice" if mode == "participant" else None
        )  # fmt: skip
        assert made["got"]["id"] == listed["id"]
        file = made["got"]["file"] if mode == "room" else made["got"]["files"][0]
        assert file["filePath"].startswith("mine/")
        assert "deleted successfully" in made["delete"]
        assert made["getAgain"] == "RoomNotFoundError"
        assert [event["webhookType"].rpartition("-")[2] for event in made["events"]] == STAGES
    (start, *_) = [call.body for call in simulator.calls if call.endpoint == "room-start"]
    assert start["awsDirPath"] == "mine"
    given = {"bucketDirPath" if name == "awsDirPath" else name: value for name, value in start.items()}
    read_body(msgspec.json.encode(given), BODIES[Mode.ROOM].start)


async def test_vendors_package_and_the_gateway_agree_on_signatures(seen, simulator):
    """What the package takes for VideoSDK's the gateway does, and nothing else: bodies and signatures, some changed."""

    async def public_key():
        return simulator.public_key

    signatures = Signatures(FetchedKeys(public_key))
    ours = [
        await signatures.judge(base64.b64decode(case["body"]), [case["signature"].encode()]) is SignatureVerdict.GENUINE
        for case in seen["judged"]
    ]
    assert ours == [case["genuine"] for case in seen["judged"]]
    assert (len(ours), sum(ours)) == (20, 4)


def test_lock_file_names_no_registry():
    """The lock file leaves the choice of a registry to the installer."""
    assert "http" not in (PROJECT / "package-lock.json").read_text("utf-8")
