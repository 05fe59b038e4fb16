// Drives a VideoSDK through its vendor's own package, and prints what came of it as one JSON object.
// Reads from the environment: VIDEOSDK_API_KEY, VIDEOSDK_SECRET, VIDEOSDK_API_ENDPOINT.
import { createServer } from "node:http";
import { once } from "node:events";
import { VideoSDK } from "@videosdk.live/server-sdk";

const roomId = "abcd-efgh-ijkl";
const participantId = "alice";
const kind = "video";

// A listener for webhooks that keeps the raw bytes: signatures cover those, not what a parser makes of them.
const taken = [];
const listener = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  taken.push({ body: Buffer.concat(chunks), signature: request.headers["videosdk-signature"] });
  response.end();
  listener.emit("taken");
});
listener.listen(0, "127.0.0.1");
await once(listener, "listening");

async function untilTaken(count) {
  while (taken.length < count) await once(listener, "taken");
}

async function failureOf(work) {
  try {
    await work();
    return null;
  } catch (error) {
    return error.constructor.name;
  }
}

const client = new VideoSDK({ maxRetries: 0 });
const track = client.recordings.track;
const seen = {};

seen.start = await track.start(roomId, {
  participantId,
  kind,
  fileFormat: "webm",
  webhookUrl: `http://127.0.0.1:${listener.address().port}/hook`,
  dirPath: "mine",
});
seen.startAgain = await failureOf(() => track.start(roomId, { participantId, kind }));
seen.listed = (await track.list({ roomId })).data;
seen.participants = (await client.participants.list(roomId)).data;
seen.stop = await track.stop(roomId, participantId, kind);
seen.stopAgain = await failureOf(() => track.stop(roomId, participantId, kind));
seen.got = await track.get(seen.listed[0].id);
seen.delete = await track.delete(seen.listed[0].id);
seen.getAgain = await failureOf(() => track.get(seen.listed[0].id));

await untilTaken(4);
seen.events = [];
for (const { body, signature } of taken) {
  seen.events.push(await client.webhooks.verify(body, signature));
}
const changed = Buffer.from(taken[0].body);
changed[changed.length - 3] ^= 1;
seen.forged = await failureOf(() => client.webhooks.verify(changed, taken[0].signature));
// The same questions that the gateway is asked: who says yes to what?
seen.judged = [];
for (const { body, signature } of taken) {
  const other = signature.startsWith("A") ? "B" : "A";
  for (const [what, given] of [
    [body, signature],
    [changed, signature],
    [body, other + signature.slice(1)],
    [body, ""],
    [Buffer.from(JSON.stringify(JSON.parse(body), null, 1)), signature],
  ]) {
    const failure = await failureOf(() => client.webhooks.verify(what, given));
    seen.judged.push({ body: what.toString("base64"), signature: given, genuine: failure === null });
  }
}
seen.unsigned = await failureOf(() => client.webhooks.verify(taken[0].body, undefined));
seen.wrongSecret = await failureOf(() => new VideoSDK({ secret: "f".repeat(64), maxRetries: 0 }).recordings.track.list());

// The same of a participant and of a room.
async function drive(recordings, start, stop) {
  const before = taken.length;
  const webhookUrl = `http://127.0.0.1:${listener.address().port}/whole`;
  const made = { start: await start(webhookUrl) };
  made.startAgain = await failureOf(() => start(webhookUrl));
  made.listed = (await recordings.list({ roomId })).data;
  made.stop = await stop();
  made.stopAgain = await failureOf(stop);
  made.got = await recordings.get(made.listed[0].id);
  made.delete = await recordings.delete(made.listed[0].id);
  made.getAgain = await failureOf(() => recordings.get(made.listed[0].id));
  await untilTaken(before + 4);
  made.events = [];
  for (const { body, signature } of taken.slice(before)) made.events.push(await client.webhooks.verify(body, signature));
  return made;
}

const { participant } = client.recordings;
seen.participant = await drive(
  participant,
  (webhookUrl) => participant.start(roomId, { participantId, webhookUrl, dirPath: "mine" }),
  () => participant.stop(roomId, participantId),
);
seen.room = await drive(
  client.recordings,
  (webhookUrl) =>
    client.recordings.start(roomId, {
      composition: { layout: "grid", gridSize: 4, priority: "PIN", theme: "DARK", quality: "high", orientation: "portrait" },
      transcription: { enabled: true, summary: { enabled: true, prompt: "x" } },
      webhookUrl,
      dirPath: "mine",
    }),
  () => client.recordings.stop(roomId),
);

listener.close();
listener.closeAllConnections();
console.log(JSON.stringify(seen));
