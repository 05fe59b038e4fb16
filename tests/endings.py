"""Every session ends: a test that hangs fails, and fixtures that hang end their process.

pytest-timeout alone does not see to that: it interrupts an event loop from outside, which then goes on running the
test, and it stops its clock as soon as a test has failed.
"""

import asyncio
import faulthandler
import functools
import inspect
import os
from collections.abc import Awaitable, Callable, Generator

import pytest

__all__ = ["pytest_pyfunc_call", "pytest_runtest_teardown"]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """End an async test that hangs from within its event loop, so that its fixtures are torn down and others go on.

    pytest-timeout comes later and ends the whole process: interrupted from outside, the loop would go on running the
    test while its fixtures wait for it for ever.
    """
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = _bounded(pyfuncitem.obj, _seconds(pyfuncitem) * 2 / 3)
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """End a process whose fixtures hang: pytest-timeout stops its clock as soon as a test has failed."""
    with os.fdopen(os.dup(2), "w") as stderr:
        faulthandler.dump_traceback_later(_seconds(item) / 3, exit=True, file=stderr)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _bounded(test: Callable[..., Awaitable[None]], seconds: float) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def bounded(**fixtures: object) -> None:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await test(**fixtures)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise AssertionError(f"the test hangs: it did not end in {seconds:g} s") from error

    return bounded


def _seconds(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0] if marker else item.config.getini("timeout"))
