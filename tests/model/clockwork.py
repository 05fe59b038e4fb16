"""An event loop that moves its own time, so that a minute takes a millisecond and is the same whenever it is run."""

import asyncio
import contextvars
import logging
import selectors
from collections.abc import Callable
from typing import Any, Protocol

logging.getLogger("asyncio").setLevel(logging.INFO)
"""Each of the many loops would say which selector it uses."""


class Owner(Protocol):
    """Whose timers stand still while it is stopped in its tracks."""

    frozen: list[tuple[asyncio.TimerHandle, Callable[[], None]]]

    @property
    def stalled(self) -> bool:
        """Whether it is stopped."""
        ...


OWNER: contextvars.ContextVar[Owner | None] = contextvars.ContextVar("owner", default=None)
"""Whom the running code belongs to; tasks and timers inherit it."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while anything can run, and else jumps to the next timer."""

    def __init__(self) -> None:
        self.moment = 1000.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Return the world's time in seconds."""
        return self.moment

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Schedule a call; where its owner is stopped in its tracks when the moment comes, for when that goes on."""
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is None:
            return super().call_at(when, callback, *args, context=context)

        def fire() -> None:
            if owner.stalled:
                owner.frozen.append((handle, fire))
            else:
                callback(*args)

        handle = super().call_at(when, fire, context=context)
        return handle


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the world stands still for ever")
        self._loop.moment += max(timeout, 0)
        return super().select(0)
