"""Schemathesis against a live gateway process, which runs against the simulator and a Redis of its own.

`python -m tests.fuzz.run` plays rounds until FUZZ_CASES requests were made, and fails at the first round that finds
something. Each round says its seed; `--seed` plays one again.
"""

import argparse
import asyncio
import os
import random
import re
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.sandbox.faults import Fault
from tests import harness
from tests.leaks import EVIDENCE

__all__ = ["Round", "Target", "fuzz", "target"]

_ROOT: Final = Path(__file__).parents[2]
_CONFIGURATION: Final = Path(__file__).with_name("schemathesis.toml")
_GENERATED: Final = re.compile(r"^\s*(\d+) generated", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """A gateway to try, and a key for it."""

    url: str
    key: str


@dataclass(frozen=True)
class Round:
    """What one run of Schemathesis came to."""

    code: int
    cases: int
    report: str


@asynccontextmanager
async def target(folder: Path) -> AsyncGenerator[Target]:
    """Run a gateway process that nothing limits and nothing disturbs."""
    demo = harness.Demo(folder)
    # What is made up must not be called: example.com exists.
    mute = Fault(action="webhook_lost", times=None)
    with harness.AgedValkey() as valkey:
        async with harness.simulator(faults=[mute]) as videosdk:
            more = {"GATEWAY_TRACK_STARTS_PER_MINUTE": "60000", "GATEWAY_LOG_LEVEL": "warning"}
            # As the contract has them, which knows no settings.
            more["GATEWAY_FILE_FORMATS"] = "webm,mp4,m3u8"
            settings = harness.environment(valkey.url, videosdk.url, demo.file, **more)
            gateway = harness.GatewayProcess(settings, folder / "gateway.log")
            try:
                await gateway.ready()
                yield Target(gateway.url, demo.key)
            finally:
                await asyncio.to_thread(gateway.stop)


async def fuzz(aim: Target, folder: Path, examples: int, seed: int) -> Round:
    """Play one round of all phases, with so many examples for each route and phase."""
    program = Path(sys.executable).with_name("schemathesis")
    arguments = ["--config-file", _CONFIGURATION, "run", f"{aim.url}/openapi.json", "-n", examples, "--seed", seed]
    process = await asyncio.create_subprocess_exec(
        program,
        *map(str, arguments),
        # Hypothesis keeps its examples in the directory it runs in.
        cwd=folder,
        env={"PATH": os.environ["PATH"], "FUZZ_KEY": aim.key, "PYTHONPATH": str(_ROOT), "NO_PROXY": "*"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    report = out.decode()
    generated = _GENERATED.search(report)
    assert process.returncode is not None
    return Round(process.returncode, int(generated[1]) if generated else 0, report)


async def _play(wanted: int, examples: int, seed: int | None) -> int:
    with tempfile.TemporaryDirectory(prefix="gateway-fuzz-") as name:
        folder = Path(name)
        cases = 0
        async with target(folder) as aim:
            while cases < wanted:
                number = random.randrange(2**32) if seed is None else seed
                done = await fuzz(aim, folder, examples, number)
                cases += done.cases
                print(f"{cases} of {wanted} cases, seed {number}", flush=True)
                if done.code != 0 or not done.cases:
                    print(done.report)
                    return 1
                if seed is not None:
                    break
        for leak in (leaks := list(EVIDENCE.search())):
            print(leak)
    return 1 if leaks else 0


def main() -> int:
    """Run the command; 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--examples", type=int, default=400, help="for each route and phase of a round")
    parser.add_argument("--seed", type=int, help="play one round again")
    arguments = parser.parse_args()
    return asyncio.run(_play(int(os.environ.get("FUZZ_CASES", "10000")), arguments.examples, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
