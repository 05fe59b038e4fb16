// A service that answers "is this lesson being recorded?" at once, from the gateway's event stream. Node 18, no packages.
//
//   GATEWAY_ADDRESS=http://127.0.0.1:8080 GATEWAY_KEY=… node examples/service.mjs
//
//   GET /rooms/ROOM  {"connected": true, "recording": ["ada video"], "maybe": []}
//
// `maybe` is what may record while the gateway finds out. Where `connected` is false this service is behind: it says what
// it knew last, and that it does not know better.
import {createServer} from "node:http";
import {setTimeout as sleep} from "node:timers/promises";

const gateway = process.env.GATEWAY_ADDRESS ?? "http://127.0.0.1:8080";
const headers = {Authorization: `Bearer ${process.env.GATEWAY_KEY}`};

class Room {
  connected = false;
  #recordings = new Map();
  #last = "";

  constructor(id) {
    this.url = `${gateway}/v1/rooms/${encodeURIComponent(id)}/events`;
  }

  with(...statuses) {
    const chosen = [...this.#recordings.values()].filter(({status}) => statuses.includes(status));
    return chosen.map(({participantId, kind, mode}) => [participantId, kind ?? mode].filter(Boolean).join(" ")).sort();
  }

  // For as long as this process lives: after any trouble again, from the last event on, so that nothing is missed.
  async follow() {
    for (;;) {
      const refused = await this.#read().catch(() => false);
      this.connected = false;
      // A key that is wrong or gone does not get better by asking again and again.
      await sleep(refused ? 30_000 : 500 + Math.random() * 1000);
    }
  }

  async #read() {
    const since = this.#last ? {"Last-Event-ID": this.#last} : {};
    const answer = await fetch(this.url, {headers: {...headers, ...since}});
    if (!answer.ok) return answer.status < 500;
    let text = "";
    for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
      const events = (text + part).split("\n\n");
      text = events.pop();
      events.forEach((event) => this.#take(event));
    }
    return false;
  }

  #take(event) {
    const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: ?(.*)/s)));
    if (fields.id) this.#last = fields.id;
    if (fields.event === "snapshot") this.#recordings.clear();
    if (!["snapshot", "recording"].includes(fields.event)) return;
    this.connected = true;
    const data = JSON.parse(fields.data);
    for (const recording of data.recordings ?? [data]) {
      const {mode, participantId, kind} = recording;
      this.#recordings.set(JSON.stringify([mode, participantId, kind]), recording);
    }
  }
}

const rooms = new Map();

createServer((request, response) => {
  const id = decodeURIComponent(request.url.replace(/^\/rooms\//, ""));
  if (!rooms.has(id)) {
    rooms.set(id, new Room(id));
    rooms.get(id).follow();
  }
  const room = rooms.get(id);
  response.setHeader("Content-Type", "application/json");
  response.end(
    JSON.stringify({
      connected: room.connected,
      recording: room.with("recording", "stopping"),
      maybe: room.with("starting", "unknown"),
    }),
  );
}).listen(Number(process.env.PORT ?? 9001), "127.0.0.1");
