// A person on the example's page. Reads its arguments from stdin (JSON), writes what the page said to stdout (JSON).
import {text} from "node:stream/consumers";
import {chromium} from "playwright-core";

const {executable, page: address, gateway, token, foreign, key} = JSON.parse(await text(process.stdin));
const browser = await chromium.launch({executablePath: executable, args: ["--headless", "--no-sandbox", "--disable-gpu"]});
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  await page.goto(address);
  const says = (words) => page.getByRole("status").filter({hasText: words}).innerText();
  await page.getByLabel("Gateway").fill(gateway);
  await page.getByLabel("Join token").fill(token);
  await page.getByRole("button", {name: "Record"}).click();
  const heard = [await says("Recording.")];
  // Another caller stops it, with a key: the page hears of it.
  const stopped = await fetch(`${gateway}/v1/recordings/track/stop`, {
    method: "POST",
    headers: {Authorization: `Bearer ${key}`, "Content-Type": "application/json"},
    body: JSON.stringify({roomId: "abcd-efgh-ijkl", participantId: "ada", kind: "video"}),
  });
  heard.push(stopped.status, await says("Not recording."));
  await page.getByLabel("Join token").fill(foreign);
  await page.getByRole("button", {name: "Stop"}).click();
  heard.push(await says("("));
  process.stdout.write(JSON.stringify({heard, errors}));
} finally {
  await browser.close();
}
