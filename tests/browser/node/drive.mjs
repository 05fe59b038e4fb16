// Drives Chromium. Reads one scenario with its arguments from stdin (JSON), and writes what was seen to stdout (JSON).
import {text} from "node:stream/consumers";
import {launch} from "./launch.mjs";

// A page of a frontend sends one request after the other; a list among them is sent at once.
async function frontend(page, {address, gateway, steps}) {
  await page.goto(address);
  const send = (step) =>
    page.evaluate(
      ([gateway, {token, action, track, added}]) =>
        ask(gateway, token, action, track, added).catch((error) => ({blocked: error.name})),
      [gateway, step],
    );
  const answers = [];
  for (const step of steps) answers.push(Array.isArray(step) ? await Promise.all(step.map(send)) : await send(step));
  return {answers};
}

// A page follows a room on one gateway while recordings are started and stopped through another; what it hears is kept
// with its time. The one it follows on is killed on the way: whoever runs this sees the second start, and does it.
async function live(page, {address, gateways, token, first, second}) {
  await page.goto(address);
  return page.evaluate(
    async ([gateways, token, first, second]) => {
      const heard = [];
      follow(gateways, token, first.roomId, (event) => heard.push({...event, at: Date.now()}));
      const hears = async (type, track, status) => {
        const is = (event) =>
          event.type === type &&
          (!track || (event.data.participantId === track.participantId && event.data.status === status));
        while (!heard.some(is)) await new Promise((resolve) => setTimeout(resolve, 5));
      };
      const act = (action, track) => ask(gateways.at(-1), token, action, track);
      await hears("snapshot");
      await act("start", first);
      await hears("recording", first, "recording");
      await act("start", second);
      await hears("recording", second, "recording");
      await act("stop", first);
      await act("stop", second);
      await hears("recording", first, "stopped");
      await hears("recording", second, "stopped");
      return {heard};
    },
    [gateways, token, first, second],
  );
}

// A person opens the docs, shows a key and sends the start that is there already.
async function docs(page, {gateway, key, screenshot}) {
  await page.goto(`${gateway}/docs`);
  await page.locator("button.authorize").first().click();
  const dialog = page.locator(".dialog-ux");
  await dialog.locator("input").first().fill(key);
  await dialog.locator("button.authorize").first().click();
  await dialog.locator("button.btn-done").first().click();
  const operation = page.locator("#operations-recordings-startTrackRecording");
  await operation.locator(".opblock-summary-control").click();
  const idempotencyKey = await operation.locator('[data-param-name="idempotency-key"] input').inputValue();
  await operation.locator("button.execute").click();
  const answer = operation.locator(".live-responses-table .response");
  const status = await answer.locator(".response-col_status").first().innerText();
  const body = await answer.locator(".highlight-code code").first().innerText();
  await answer.first().evaluate((element) => element.scrollIntoView({block: "end"}));
  await page.screenshot({path: screenshot});
  return {idempotencyKey, status, body};
}

// A page asks for something outside, so that the search for such requests is known to find one.
async function stray(page, {address, outside}) {
  await page.goto(address);
  await page.evaluate((outside) => fetch(outside, {mode: "no-cors"}).catch(() => null), outside);
  return {};
}

const {scenario, executable, proxy, ...rest} = JSON.parse(await text(process.stdin));
const browser = await launch(executable, proxy);
try {
  const page = await browser.newPage({viewport: {width: 1280, height: 1600}});
  page.setDefaultTimeout(20_000);
  const requests = [];
  const messages = [];
  page.context().on("request", (request) => requests.push(request.url()));
  page.on("console", (message) => messages.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => messages.push(`pageerror: ${error.message}`));
  const seen = await {frontend, live, docs, stray}[scenario](page, rest);
  process.stdout.write(JSON.stringify({...seen, requests, messages}));
} finally {
  await browser.close();
}
