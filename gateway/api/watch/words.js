// What the page calls things.

export const STATUS = {
  starting: "Starting",
  recording: "Recording",
  stopping: "Stopping",
  stopped: "Stopped",
  failed: "Failed",
  unknown: "Unknown",
};
export const MODE = {track: "Track", participant: "Participant as a whole", room: "Room as a whole"};
export const KIND = {audio: "Audio", video: "Video", screen_audio: "Screen audio", screen_video: "Screen video"};
export const SORT = {api_key: "API key", join_token: "join token", jwt: "JWT", anyone: "no key needed"};
export const OUTCOME = {
  started: "Started.",
  joined: "Done, together with another request.",
  already_recording: "It is being recorded already.",
  stopped: "Stopped.",
  not_recording: "It was not being recorded.",
  stop_requested: "The stop is on its way.",
};
export const ENDED = {
  stopped: "stopped on request",
  refused: "VideoSDK refused it",
  failed: "VideoSDK reported a failure",
  duration_limit: "VideoSDK’s limit of two hours was reached",
  videosdk: "ended outside the gateway",
  max_duration: "it had recorded for as long as it may",
  participant_left: "the participant left",
  session_ended: "the session ended",
};

export const plain = (word) => word.replaceAll("_", " "); // what a later gateway may say
export const isolated = (text) => `\u2068${text}\u2069`; // an id may hold characters that turn text round

const minutes = {hour: "2-digit", minute: "2-digit", hourCycle: "h23"};
const ofToday = new Intl.DateTimeFormat(undefined, {...minutes, second: "2-digit"});
const ofEarlier = new Intl.DateTimeFormat(undefined, {...minutes, weekday: "short"});

/** The time of day on this device, with the day of the week where that is another day. */
export function timeOf(when) {
  const date = new Date(when);
  return (date.toDateString() === new Date().toDateString() ? ofToday : ofEarlier).format(date);
}

/** When a recording is stopped: near the end, in how long. */
export function endOf(stopsAt, now) {
  const left = Date.parse(stopsAt) - now;
  if (left <= 0) return "its time is over";
  return left > 600_000 ? `until ${timeOf(stopsAt)}` : `stops in ${lengthOf(left)}`;
}

/** The seconds after which a start may have its recording stopped, and the words for them; first, what holds anyway. */
export function durationsUpTo(longest) {
  const shorter = [1800, 3600, 7200, 14_400].filter((seconds) => seconds < (longest ?? Infinity));
  const values = [longest ?? "", ...shorter].map(String);
  const said = (seconds) => lengthOf(seconds * 1000).replaceAll(/ 0 (min|s)/g, "");
  return [values, Object.fromEntries(values.map((value) => [value, value ? said(value) : "Never"]))];
}

export function lengthOf(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  const [h, min, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return [h && `${h} h`, (h || min) && `${min} min`, `${s} s`].filter(Boolean).join(" ");
}
