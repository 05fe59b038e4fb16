"""The gateway, with an event loop that a signal can block: `python -m tests.faults.stalling serve`.

Python runs a signal's handler in the main thread, between two steps of whatever runs there: of the loop.
"""

import signal
import sys
import time
from types import FrameType
from typing import Final

from gateway.__main__ import main

SIGNALS: Final = {1.5: signal.SIGUSR1, 5.0: signal.SIGUSR2}
"""Which signal blocks the loop for how many seconds."""


def _block(number: int, _: FrameType | None) -> None:
    time.sleep(next(seconds for seconds, known in SIGNALS.items() if known == number))


if __name__ == "__main__":
    for known in SIGNALS.values():
        signal.signal(known, _block)
    sys.exit(main())
