"""`make bench`: what each request costs the gateway, beside programs that do the same without its promises.

ARGS are the options: `make bench ARGS="--json before.json"`, and later `ARGS="--compare before.json"`.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.bench.measuring import measure
from tests.bench.processes import Cores
from tests.bench.programs import FASTAPI, GATEWAY, OTHER_SERVERS, node
from tests.bench.report import read, table, write
from tests.bench.scenarios import SCENARIOS


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program; the figures are medians")
    parser.add_argument("--requests", type=int, default=1600, help="of each turn")
    parser.add_argument("--only", action="append", default=[], choices=[one.name for one in SCENARIOS])
    parser.add_argument("--alone", action="store_true", help="without the programs that it is compared with")
    parser.add_argument("--servers", action="store_true", help="beside the gateway on other servers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="show each cost beside one of an earlier run")
    options = parser.parse_args()
    before = read(options.compare) if options.compare else None
    programs = [GATEWAY, *(OTHER_SERVERS if options.servers else ())]
    plain = [] if options.alone else [FASTAPI, node(Path("build/bench"))]
    programs += [program for program in plain if program is not None]
    with (
        tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        figures = runner.run(
            measure(
                programs,
                Path(folder),
                rounds=options.rounds,
                requests=options.requests,
                cores=Cores.of_this_machine(),
                scenarios=options.only,
            )
        )
    print(table(figures, [program.name for program in programs if program.plain], before))
    if options.json:
        write(figures, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
