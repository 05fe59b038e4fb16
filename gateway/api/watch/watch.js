// The page at /watch: a room's recordings, live. client.js talks to the gateway, words.js has the words, and this shows
// what the gateway says.
//
// Every text of a room was written by others, so it is only ever set as text, and never becomes markup.
import {Gateway, Problem} from "./client.js";
import {durationsUpTo, ENDED, endOf, isolated, KIND, lengthOf} from "./words.js";
import {MODE, OUTCOME, plain, SORT, STATUS, timeOf} from "./words.js";

const HOUR = 3_600_000;
const STORED = "gateway.watch";

const SHOWN_AS = {starting: "running", recording: "running", stopping: "running", unknown: "unknown"}; // else ended
const $ = (id) => document.getElementById(id);

// --- what is known ---------------------------------------------------------------------------------------------------

let gateway; // the client
let me; // what the caller is and may, as GET /v1/me says
let room = "";
let leaving = new AbortController(); // ends the connection to the room
let lostAt = null; // since when there is none: what is shown is as of then
const rows = new Map(); // a row for each target: mode, participant and kind
const people = new Map(); // a group of rows for each participant
const changed = new Set(); // rows to be drawn in the next frame
let frame = 0;
let news = [];

const now = () => (lostAt ?? Date.now()) + gateway.skew;
const groupOf = (status) => SHOWN_AS[status] ?? "ended";
const whatOf = ({mode, kind}) => (mode === "track" ? (KIND[kind] ?? plain(kind)) : (MODE[mode] ?? plain(mode)));
const nameOf = (recording) => [recording.participantId, whatOf(recording)].filter(Boolean).map(isolated).join(", ");

// --- what the caller may ---------------------------------------------------------------------------------------------

const has = (scope) => me.scopes.includes(`recordings:${scope}`);

function mayStop({requestedBy, participantId}) {
  if (!has("stop") || me.stopsOthers) return has("stop");
  if (me.sort !== "join_token") return requestedBy === me.name;
  return requestedBy === `participant:${participantId}` || Boolean(requestedBy?.startsWith("moderator:"));
}

/** What the button of a row does: `start`, `stop`, or nothing. */
function actionFor(recording) {
  if (groupOf(recording.status) === "ended") return has("start") ? "start" : null;
  return mayStop(recording) ? "stop" : null;
}

function showCaller() {
  const words = {read: "see", start: "start", stop: "stop"};
  const may = Object.keys(words).filter(has).map((scope) => words[scope]);
  const limit = me.limits.find(({policy, remaining}) => policy === "caller" && remaining !== null);
  $("caller").textContent = [
    isolated(me.name),
    SORT[me.sort] ?? plain(me.sort),
    may.length ? `may ${may.join(", ")}` : "may do nothing",
    limit && `${limit.remaining} of ${limit.perMinute} requests left this minute`,
  ].filter(Boolean).join(" · ");
  $("start").hidden = !(has("start") && me.modes.length);
  $("live").hidden = !has("read");
  $("note").hidden = has("read");
  $("note").textContent =
    `${isolated(me.name)} may not see recordings: it lacks the scope recordings:read. ` +
    "The operator of this gateway decides who has it.";
  choose($("mode"), me.modes, MODE);
  choose($("kind"), me.kinds, KIND);
  choose($("maxDurationSeconds"), ...durationsUpTo(me.maxDurationSeconds));
  showFields();
  // One participant and no other: a pattern without an asterisk that stands for anything.
  const [only, ...others] = me.participants ?? [];
  if (only && !others.length && !/(?<!\\)\*$/.test(only)) $("participantId").value ||= only.replaceAll("\\*", "*");
  for (const row of rows.values()) draw(row);
}

/** Offer these values, and keep the one that is chosen. */
function choose(select, values, words) {
  if (String(values) === String([...select.options].map(({value}) => value))) return;
  const chosen = select.value;
  select.replaceChildren(...values.map((value) => new Option(words[value] ?? plain(value), value)));
  select.value = [chosen, "video", values[0]].find((value) => values.includes(value)) ?? "";
}

/** A start has the ids that its mode has. */
function showFields() {
  for (const [name, modes] of [["participantId", ["track", "participant"]], ["kind", ["track"]]]) {
    const field = $(name);
    field.disabled = field.closest(".field").hidden = !modes.includes($("mode").value);
  }
}

// --- what is shown ---------------------------------------------------------------------------------------------------

/** Make a copy of a template: the element, and the parts of it that have a name. */
function copyOf(template) {
  const node = $(template).content.firstElementChild.cloneNode(true);
  const parts = [...node.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]);
  return {node, ...Object.fromEntries(parts)};
}

const order = new Intl.Collator(undefined, {numeric: true});

/** Put a node among its siblings by name. It stays there, so that nothing moves under a person's hand. */
function insert(list, node, name) {
  node.dataset.name = name;
  const after = [...list.children].find((sibling) => order.compare(sibling.dataset.name, name) > 0);
  list.insertBefore(node, after ?? null);
}

function personOf(participantId) {
  if (!people.has(participantId)) {
    const person = {...copyOf("person"), participantId, rows: new Set()};
    person.name.textContent = participantId || "The whole room";
    insert($("people"), person.node, participantId);
    people.set(participantId, person);
  }
  return people.get(participantId);
}

function rowOf(recording) {
  const key = JSON.stringify([recording.mode, recording.participantId, recording.kind]);
  if (!rows.has(key)) {
    const person = personOf(recording.participantId ?? "");
    const row = {...copyOf("recording"), key, person, past: [], lane: document.createElement("div")};
    row.act.addEventListener("click", () => act(row.action, row.recording, row.act));
    insert(person.list, row.node, key);
    insert(person.timeline, row.lane, key);
    person.rows.add(row);
    rows.set(key, row);
  }
  return rows.get(key);
}

function forget({key, node, lane, person}) {
  for (const each of [node, lane]) each.remove();
  changed.delete(rows.get(key));
  person.rows.delete(rows.get(key));
  rows.delete(key);
  if (person.rows.size) return;
  person.node.remove();
  people.delete(person.participantId);
}

/** Take in what an event says of a recording; it is drawn with the next frame, however many come until then. */
function take(recording) {
  const row = rowOf(recording);
  const before = row.recording;
  if (before?.id && before.id !== recording.id) row.past = [...row.past.slice(-20), before];
  if (before && before.status !== recording.status) news.push(`${nameOf(recording)}: ${STATUS[recording.status]}`);
  row.recording = recording;
  row.firstSeen ??= Date.parse(recording.confirmedAt) || now();
  changed.add(row);
  frame ||= requestAnimationFrame(drawChanged);
  return row;
}

function drawChanged() {
  frame = 0;
  changed.forEach(draw);
  changed.clear();
  summarise();
}

function draw(row) {
  const {recording} = row;
  row.status.dataset.status = recording.status;
  row.shape.setAttribute("href", `#shape-${recording.status}`);
  row.word.textContent = STATUS[recording.status] ?? plain(recording.status);
  row.what.textContent = whatOf(recording);
  row.files.replaceChildren(...recording.files.flatMap(linkTo));
  row.action = actionFor(recording);
  const focused = row.act === document.activeElement;
  row.act.hidden = !row.action;
  row.act.textContent = row.action === "start" ? "Start again" : "Stop";
  row.act.dataset.action = row.action;
  setWaiting(row.act, row.act.busy || recording.status === "stopping");
  row.act.setAttribute("aria-label", `${row.act.textContent}: ${nameOf(recording)}`);
  if (focused && row.act.hidden) $("room-title").focus();
  drawTimes(row);
  drawTimeline(row.person);
}

/** A button that waits stays where it is: one that is disabled or hidden would lose the focus. */
const setWaiting = (button, waits) => button.setAttribute("aria-disabled", String(Boolean(waits)));
const setText = (node, text) => node.textContent === String(text) || (node.textContent = text);

function drawTimes(row) {
  const {status, requestedAt, endedAt, endedBecause} = row.recording;
  const until = groupOf(status) === "ended" ? Date.parse(endedAt) : now();
  const length = until - Date.parse(requestedAt); // not a number where one of them is not known
  setText(row.length, length >= 0 && endedBecause !== "refused" ? lengthOf(length) : "");
  setText(row.facts, factsOf(row.recording).filter(Boolean).join(" · "));
}

function factsOf(recording) {
  const {status, requestedAt, confirmedAt, endedAt, endedBecause, stopsAt, origin, requestedBy} = recording;
  const outside = origin === "videosdk" && "started outside the gateway";
  const by = outside || (requestedBy && `started by ${isolated(requestedBy)}`);
  if (groupOf(status) === "ended") {
    const begun = requestedAt && endedBecause !== "refused" && timeOf(requestedAt);
    const times = [begun, endedAt && timeOf(endedAt)].filter(Boolean).join(" to ");
    return [times, endedBecause && (ENDED[endedBecause] ?? plain(endedBecause)), by];
  }
  const certain = Math.max(...[confirmedAt, requestedAt].map((when) => Date.parse(when) || 0));
  const doubt = `may be recording: not certain since ${timeOf(certain || now())}, the gateway is finding out`;
  const since = status === "unknown" ? doubt : requestedAt && `since ${timeOf(requestedAt)}`;
  return [since, stopsAt && endOf(stopsAt, now()), by];
}

/** A link where the file can be opened, its path otherwise. Only web addresses: others may run scripts. */
function linkTo({fileUrl, filePath, type}) {
  const name = (filePath ?? fileUrl ?? "").split("?")[0].split("/").pop() || type || "file";
  if (!/^https?:\/\//i.test(fileUrl ?? "")) return filePath ? [name] : [];
  const link = document.createElement("a");
  return [Object.assign(link, {href: fileUrl, textContent: name, target: "_blank", rel: "noopener noreferrer"})];
}

const begunAt = (row, recording) => Date.parse(recording.requestedAt) || row.firstSeen;

/** A lane for each recording of a participant: a bar for each time it ran in the last hour, and the same in words. */
function drawTimeline(person) {
  const words = [];
  for (const row of person.rows) {
    const bars = [...row.past, row.recording].flatMap((recording) => {
      const from = Math.max(begunAt(row, recording), now() - HOUR);
      const running = groupOf(recording.status) !== "ended";
      const to = running ? now() : Date.parse(recording.endedAt) || 0;
      if (to <= from || recording.endedBecause === "refused") return [];
      words.push(`${whatOf(recording)} ${running ? `since ${timeOf(from)}` : `${timeOf(from)} to ${timeOf(to)}`}`);
      const bar = document.createElement("span");
      bar.dataset.status = recording.status;
      bar.style.right = `${((now() - to) / HOUR) * 100}%`; // from this side: the shortest bar is seen, too
      bar.style.width = `${((to - from) / HOUR) * 100}%`;
      return [bar];
    });
    row.lane.replaceChildren(...bars);
  }
  person.timeline.setAttribute("aria-label", `Last hour: ${words.join("; ") || "nothing recorded"}`);
}

/** Count, show what the filter lets through, and say what changed: a few changes each, many as a number. */
function summarise() {
  const shown = $("filter").querySelector(":checked").value;
  const counts = {all: rows.size, running: 0, unknown: 0, ended: 0};
  for (const row of rows.values()) {
    const group = groupOf(row.recording.status);
    counts[group] += 1;
    // What a person is using does not vanish.
    row.node.hidden = shown !== "all" && shown !== group && !row.node.contains(document.activeElement);
  }
  for (const {node, rows: own} of people.values()) node.hidden = [...own].every((row) => row.node.hidden);
  for (const [name, count] of Object.entries(counts)) setText(document.querySelector(`[data-count=${name}]`), count);
  $("empty").hidden = [...people.values()].some(({node}) => !node.hidden);
  $("empty").textContent = rows.size ? "Nothing of these." : "Nothing has been recorded in this room lately.";
  document.title = `${counts.running ? `● ${counts.running} recording` : "Recordings"} – ${room}`;
  if (news.length > 3) news = [`${news.length} changes. ${counts.running} recording.`];
  if (news.length) $("news").textContent = news.join(". ");
  news = [];
}

let ticks = 0;
setInterval(() => {
  if (document.hidden && changed.size) drawChanged(); // no frames come then, and the title is still seen
  if (document.hidden || lostAt !== null) return;
  for (const row of rows.values()) if (groupOf(row.recording.status) !== "ended") drawTimes(row);
  ticks += 1;
  if (ticks % 10 === 0) people.forEach(drawTimeline);
}, 1000);

// --- what a person does ----------------------------------------------------------------------------------------------

function showProblem(problem) {
  if (!(problem instanceof Problem)) throw problem;
  $("problem-title").textContent = problem.title;
  $("problem-detail").textContent = problem.detail;
  $("problem-fields").replaceChildren(
    ...problem.errors.map(({field, message}) => {
      $(field)?.setAttribute("aria-invalid", "true");
      return Object.assign(document.createElement("li"), {textContent: `${field}: ${message}`});
    }),
  );
  $("problem").hidden = false;
}

function hideProblem() {
  $("problem").hidden = true;
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

/** Start or stop. The rows show what comes of it when the events tell: they are the same for all who watch. */
async function act(action, recording, button) {
  if (button.getAttribute("aria-disabled") === "true") return;
  const {mode, participantId, kind, maxDurationSeconds} = recording;
  const folder = action === "start" && me.bucketDirPrefix ? {bucketDirPath: me.bucketDirPrefix} : {};
  button.busy = true;
  setWaiting(button, true);
  hideProblem();
  $("said").textContent = "";
  try {
    const {outcome} = await gateway[action](mode, {roomId: room, participantId, kind, maxDurationSeconds, ...folder});
    $("said").textContent = `${nameOf(recording)}: ${OUTCOME[outcome] ?? plain(String(outcome))}`;
  } catch (problem) {
    showProblem(problem);
  } finally {
    button.busy = false;
    setWaiting(button, false);
  }
  askMe();
}

/** Ask anew what the caller may, and how much of its limits is left. */
async function askMe() {
  const asked = gateway;
  const said = await asked.me().catch(() => me); // where it is refused by now, the events are too, and say why
  if (asked === gateway && !leaving.signal.aborted) {
    me = said;
    showCaller();
  }
}

const WORDS = {
  connecting: () => "Connecting…",
  live: () => "Live",
  lost: (tries) => `Connection lost, reconnecting${tries > 1 ? ` (try ${tries})` : ""}. Shown as of ${timeOf(now())}.`,
  off: () => "Not connected",
};

function showConnection(state, tries = 0) {
  lostAt = state === "live" || state === "connecting" ? null : (lostAt ?? Date.now());
  $("connection").dataset.state = state;
  $("connection-words").textContent = WORDS[state](tries);
  if (state === "live") askMe();
}

const hear = {
  snapshot(recordings) {
    const known = new Set(recordings.map(take));
    for (const row of [...rows.values()].filter((row) => !known.has(row))) forget(row);
    frame ||= requestAnimationFrame(drawChanged);
  },
  recording: take,
  connection: showConnection,
};

async function connect(credential, keep) {
  hideProblem();
  gateway = new Gateway(new URL(".", location.href), credential);
  try {
    me = await gateway.me();
  } catch (problem) {
    if (problem.status === 401) $("credential").setAttribute("aria-invalid", "true");
    return showProblem(problem);
  }
  if (keep) sessionStorage.setItem(STORED, JSON.stringify({credential, room}));
  else sessionStorage.removeItem(STORED);
  history.replaceState(null, "", `?${new URLSearchParams({room})}`);
  leaving = new AbortController();
  $("credential").value = "";
  $("room-name").textContent = room;
  $("connect-section").hidden = true;
  $("room-section").hidden = false;
  $("room-title").focus();
  showCaller();
  if (!has("read")) return showConnection("off");
  showConnection("connecting");
  gateway.follow(room, hear, leaving.signal).catch((problem) => {
    showConnection("off");
    showProblem(problem);
  });
}

function leave() {
  leaving.abort();
  sessionStorage.removeItem(STORED);
  location.assign(`?${new URLSearchParams({room})}`); // nothing of it is left in memory
}

$("connect").addEventListener("submit", (event) => {
  event.preventDefault();
  room = $("room").value.trim();
  connect($("credential").value.trim(), $("keep").checked);
});
$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  const valueOf = (id) => ($(id).disabled ? undefined : $(id).value); // undefined is not sent
  const [mode, participantId, kind] = ["mode", "participantId", "kind"].map(valueOf);
  const maxDurationSeconds = Number($("maxDurationSeconds").value) || undefined;
  act("start", {mode, participantId, kind, maxDurationSeconds}, event.submitter);
});
$("mode").addEventListener("change", showFields);
$("filter").addEventListener("change", summarise);
$("leave").addEventListener("click", leave);
$("problem-close").addEventListener("click", hideProblem);

const stored = JSON.parse(sessionStorage.getItem(STORED) ?? "null");
room = $("room").value = stored?.room ?? new URLSearchParams(location.search).get("room") ?? "";
if (stored) {
  $("keep").checked = true;
  $("credential").value = stored.credential;
  connect(stored.credential, true);
}
