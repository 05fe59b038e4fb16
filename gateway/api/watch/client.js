// A client of the recording gateway for web pages: starts, stops, and follows a room. Copy it into a frontend as it is.
//
// The key or token is kept in memory, and shown in a header, never in an address.

const LONGEST_PAUSE = 15_000; // milliseconds between two tries to connect
const LONGEST_SILENCE = 45_000; // the gateway sends a comment every 15 s: after three without one, the line is dead
const LONGEST_ANSWER = 35_000; // a gateway answers within 30 s, unless its operator has raised that

/** An error that the gateway answered (RFC 9457): `title` says what, `detail` why, `errors` which fields. */
export class Problem extends Error {
  constructor({title, detail, errors = []}, status = 0, retryAfter = 0) {
    super(`${title}: ${detail}`);
    Object.assign(this, {title, detail, errors, status, retryAfter});
  }

  /** Whether the same request may succeed later. */
  get passes() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

const LOST = {title: "The gateway cannot be reached", detail: "It did not answer, or the network is down."};
const NO_ANSWER = {
  TimeoutError: {title: "The gateway did not answer in time", detail: "It may act all the same; asking again is safe."},
  SyntaxError: {title: "What answers is not the gateway", detail: "It may be a proxy in between, or another service."},
};
const unanswered = ({name}) => new Problem(NO_ANSWER[name] ?? LOST);

export class Gateway {
  #credential;
  #bounds;
  /** By how many milliseconds the gateway's clock is ahead of this device's. */
  skew = 0;

  /** The last are milliseconds: of the wait for an answer, and of a stream without a byte, after which it is dead. */
  constructor(address, credential, {answer = LONGEST_ANSWER, silence = LONGEST_SILENCE} = {}) {
    this.address = address;
    this.#credential = credential;
    this.#bounds = {answer, silence};
  }

  /** What the caller is and may. */
  me = () => this.#json("v1/me");
  start = (mode, target) => this.#json(`v1/recordings/${mode}/start`, target);
  stop = (mode, target) => this.#json(`v1/recordings/${mode}/stop`, target);

  async #json(path, body) {
    const signal = AbortSignal.timeout(this.#bounds.answer);
    const answer = await this.#send(path, {body, signal});
    return answer.json().catch((error) => Promise.reject(unanswered(error)));
  }

  async #send(path, {body, headers, signal}) {
    let answer;
    try {
      answer = await fetch(new URL(path, this.address), {
        method: body ? "POST" : "GET",
        headers: {
          Authorization: `Bearer ${this.#credential}`,
          ...(body && {"Content-Type": "application/json"}),
          ...headers,
        },
        body: body && JSON.stringify(body),
        signal,
      });
    } catch (error) {
      throw unanswered(error);
    }
    const ahead = Date.parse(answer.headers.get("Date")) - Date.now();
    if (Math.abs(ahead) > 2000) this.skew = ahead; // less is rounding, and the way of the answer
    if (answer.ok) return answer;
    const nothing = {title: `The gateway answered ${answer.status}`, detail: "It did not say why."};
    const said = await answer.json().catch(() => nothing); // a proxy in between may answer a page
    throw new Problem({...nothing, ...said}, answer.status, Number(answer.headers.get("Retry-After")) || 0);
  }

  /**
   * Follow a room until `signal` aborts. Reconnects by itself and goes on after the last event it heard, so that none
   * is missed and none comes twice.
   *
   * hear.snapshot(recordings) gets all that is known of the room, hear.recording(recording) each change, and
   * hear.connection(state, tries) `live`, or `lost` with the number of tries since.
   *
   * @throws {Problem} The gateway refuses it, now or later: the key is not known any more, or not for this room.
   */
  async follow(room, hear, signal) {
    const path = `v1/rooms/${encodeURIComponent(room)}/events`;
    let last = "";
    let pause = 1000;
    let tries = 0;
    while (!signal.aborted) {
      const line = new AbortController();
      const watchdog = new Timer(this.#bounds.silence, () => line.abort());
      watchdog.restart(); // a connection may also stall before the answer begins
      let wait = 0;
      try {
        const headers = last ? {"Last-Event-ID": last} : {};
        const answer = await this.#send(path, {headers, signal: AbortSignal.any([signal, line.signal])});
        tries = 0;
        hear.connection("live", 0);
        for await (const {id, event, data, retry} of eventsIn(answer.body, () => watchdog.restart())) {
          if (retry) pause = Number(retry);
          if (event === "snapshot") hear.snapshot(JSON.parse(data).recordings);
          if (event === "recording") hear.recording(JSON.parse(data));
          if (id) last = id; // only once it was heard
        }
      } catch (error) {
        if (error instanceof Problem && !error.passes) throw error;
        wait = (error.retryAfter ?? 0) * 1000;
      } finally {
        watchdog.stop();
      }
      if (signal.aborted) return;
      tries += 1;
      hear.connection("lost", tries);
      // Later each time, and not all pages at the same moment.
      const grown = Math.min(pause * 2 ** (tries - 1), LONGEST_PAUSE) * (0.5 + Math.random() / 2);
      await sleep(Math.max(wait, grown), signal);
    }
  }
}

/** Read Server-Sent Events as the gateway writes them: a field a line, an empty line after each event. */
async function* eventsIn(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    heard();
    const {done, value} = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) yield Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
  }
}

class Timer {
  constructor(milliseconds, act) {
    Object.assign(this, {milliseconds, act});
  }

  restart() {
    this.stop();
    this.timer = setTimeout(this.act, this.milliseconds);
  }

  stop() {
    clearTimeout(this.timer);
  }
}

/** Wait; no longer than until the network is back, or the signal aborts. */
function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    const wake = () => (clearTimeout(timer), resolve());
    addEventListener("online", wake, {once: true, signal});
    signal.addEventListener("abort", wake, {once: true});
  });
}
