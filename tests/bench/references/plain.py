"""What the gateway is measured against: FastAPI, httpx and redis-py's lock, without any of the gateway's promises."""

import hmac
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import httpx
from fastapi import Depends, FastAPI, Header, HTTPException, Response
from pydantic import BaseModel
from redis.asyncio import Redis

_UPSTREAM = f"{os.environ['UPSTREAM_URL']}/v2/recordings/participant/track"
_HEADERS = {"authorization": "a token of VideoSDK's"}
_EXPIRES = 3600
_LOCK_SECONDS = 30


class Track(BaseModel):
    """What a start or a stop takes as its body."""

    model_config = {"extra": "forbid"}
    roomId: str  # noqa: N815
    participantId: str  # noqa: N815
    kind: Literal["audio", "video", "screen_audio", "screen_video"]

    @property
    def key(self) -> str:
        """Where Redis keeps that it is recorded."""
        return f"plain:{self.roomId}:{self.participantId}:{self.kind}"


redis: Redis = Redis.from_url(os.environ["REDIS_URL"])
client = httpx.AsyncClient(headers=_HEADERS)


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncGenerator[None]:
    yield
    await client.aclose()
    await redis.aclose()


def _known(authorization: Annotated[str, Header()] = "") -> None:
    if not hmac.compare_digest(authorization.encode(), f"Bearer {os.environ['KEY']}".encode()):
        raise HTTPException(401)


app = FastAPI(lifespan=_lifespan)


@app.get("/livez")
async def livez() -> dict[str, str]:
    """Answer."""
    return {"status": "ok"}


@app.post("/v1/recordings/track/start", dependencies=[Depends(_known)])
async def start(track: Track, response: Response) -> dict[str, str]:
    """Start a recording."""
    async with redis.lock(f"{track.key}:lock", timeout=_LOCK_SECONDS):
        if await redis.get(track.key):
            return {"outcome": "already_recording"}
        answer = await client.post(f"{_UPSTREAM}/start", json=track.model_dump())
        if not answer.is_success:
            raise HTTPException(502)
        await redis.set(track.key, "recording", ex=_EXPIRES)
    response.status_code = 201
    return {"outcome": "started"}


@app.post("/v1/recordings/track/stop", dependencies=[Depends(_known)])
async def stop(track: Track) -> dict[str, str]:
    """Stop a recording."""
    async with redis.lock(f"{track.key}:lock", timeout=_LOCK_SECONDS):
        if not await redis.get(track.key):
            return {"outcome": "not_recording"}
        answer = await client.post(f"{_UPSTREAM}/stop", json=track.model_dump())
        if not answer.is_success:
            raise HTTPException(502)
        await redis.delete(track.key)
    return {"outcome": "stopped"}
