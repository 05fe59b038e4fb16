// What the gateway is measured against: fastify, undici and a lock in Redis, without any of the gateway's promises.

import { randomUUID, timingSafeEqual } from "node:crypto";
import { setTimeout } from "node:timers/promises";

import Fastify from "fastify";
import Redis from "ioredis";
import { Pool } from "undici";

const { KEY, PORT, REDIS_URL, UPSTREAM_URL } = process.env;
const EXPIRES = 3600;
const LOCK_MS = 30_000;
const PATH = "/v2/recordings/participant/track";

const app = Fastify({ ajv: { customOptions: { removeAdditional: false } } });
const redis = new Redis(REDIS_URL);
const upstream = new Pool(UPSTREAM_URL, { connections: 64 });
const expected = Buffer.from(`Bearer ${KEY}`);

const body = {
  type: "object",
  required: ["roomId", "participantId", "kind"],
  additionalProperties: false,
  properties: {
    roomId: { type: "string" },
    participantId: { type: "string" },
    kind: { enum: ["audio", "video", "screen_audio", "screen_video"] },
  },
};

const onRequest = async (request, reply) => {
  const given = Buffer.from(request.headers.authorization ?? "");
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) {
    return reply.code(401).send({ detail: "unknown" });
  }
};

const keyOf = (track) => `node:${track.roomId}:${track.participantId}:${track.kind}`;

redis.defineCommand("unlock", {
  numberOfKeys: 1,
  lua: "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0",
});

const locked = async (key, run) => {
  const lock = `${key}:lock`;
  const token = randomUUID();
  while ((await redis.set(lock, token, "PX", LOCK_MS, "NX")) === null) {
    await setTimeout(100);
  }
  try {
    return await run();
  } finally {
    await redis.unlock(lock, token);
  }
};

const call = async (action, track) => {
  const { statusCode, body: answer } = await upstream.request({
    method: "POST",
    path: `${PATH}/${action}`,
    headers: { authorization: "a token of VideoSDK's", "content-type": "application/json" },
    body: JSON.stringify(track),
  });
  await answer.text();
  return statusCode < 300;
};

app.get("/livez", async () => ({ status: "ok" }));

app.post("/v1/recordings/track/start", { schema: { body }, onRequest }, async (request, reply) => {
  const key = keyOf(request.body);
  return locked(key, async () => {
    if (await redis.get(key)) {
      return { outcome: "already_recording" };
    }
    if (!(await call("start", request.body))) {
      reply.code(502);
      return { detail: "refused" };
    }
    await redis.set(key, "recording", "EX", EXPIRES);
    reply.code(201);
    return { outcome: "started" };
  });
});

app.post("/v1/recordings/track/stop", { schema: { body }, onRequest }, async (request, reply) => {
  const key = keyOf(request.body);
  return locked(key, async () => {
    if (!(await redis.get(key))) {
      return { outcome: "not_recording" };
    }
    if (!(await call("stop", request.body))) {
      reply.code(502);
      return { detail: "refused" };
    }
    await redis.del(key);
    return { outcome: "stopped" };
  });
});

await app.listen({ host: "127.0.0.1", port: Number(PORT) });
