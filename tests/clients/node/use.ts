// Start, join, conflict, stop, and a batch and the end of a room, with a generated client. Arguments: the gateway's address, a key, a room.
import createClient from "openapi-fetch";
import type {components, paths} from "./api.js";

declare const process: {argv: string[]};

const [, , baseUrl = "", key = "", roomId = ""] = process.argv;
const client = createClient<paths>({baseUrl, headers: {Authorization: `Bearer ${key}`}});
const track: components["schemas"]["StopTrackRecording"] = {roomId, participantId: "ada", kind: "video"};
const start = (more: {bucketDirPath?: string} = {}) =>
  client.POST("/v1/recordings/track/start", {body: {...track, ...more}});

const both = await Promise.all([start(), start()]);
const again = await start();
const conflict = await start({bucketDirPath: "elsewhere"});
const seen = await client.GET("/v1/recordings/track/{roomId}/{participantId}/{kind}", {params: {path: track}});
const stopped = await client.POST("/v1/recordings/track/stop", {body: track});
const person = {roomId, participantId: "ada"};
const {data: batch} = await client.POST("/v1/recordings/batch", {
  body: {
    items: [
      {action: "start", mode: "track", ...person, kinds: ["audio", "video"]},
      {action: "start", mode: "participant", ...person},
      {action: "stop", mode: "track", ...person},
    ],
  },
});
const ended = await client.POST("/v1/rooms/{roomId}/recordings/stop", {params: {path: {roomId}}, body: {}});

console.log(
  JSON.stringify({
    started: both.map(({response, data}) => [response.status, data?.outcome]).sort(),
    ids: new Set([...both, again].map(({data}) => data?.id)).size,
    again: [again.response.status, again.data?.outcome],
    conflict: [conflict.response.status, conflict.error?.type, conflict.error?.fields],
    seen: [seen.response.status, seen.data?.status],
    stopped: [stopped.response.status, stopped.data?.outcome],
    batch: batch?.results.map(({item, status, recording, problem}) => [
      item,
      status,
      recording ? recording.outcome : problem?.errors?.map(({field}) => field),
    ]),
    ended: [ended.data?.complete, ended.data?.foreignLeft, ended.data?.results.map((one) => one.recording?.status)],
  }),
);
