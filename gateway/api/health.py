"""Whether the process lives, and whether it can keep its promises."""

from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import Struct

from gateway.recordings import Recordings

__all__ = ["livez", "readyz"]


class Health(Struct, frozen=True):
    """What a probe is told."""

    status: str
    """`ok` or `unavailable`."""


@get(
    "/livez",
    operation_id="getLiveness",
    summary="Does the process live?",
    tags=["health"],
    sync_to_thread=False,
)
def livez() -> Health:
    """Answer without any I/O."""
    return Health("ok")


@get("/readyz", operation_id="getReadiness", summary="Can it serve?", tags=["health"])
async def readyz(recordings: NamedDependency[Recordings]) -> Response[Health]:
    """Answer whether Redis does."""
    ready = await recordings.ready()
    return Response(Health("ok" if ready else "unavailable"), status_code=200 if ready else 503)
