// Drives Chromium step by step, for tests that do something themselves between two steps. Each line of stdin is a step
// (JSON: its number, and what to do), each line of stdout what came of it. The first line says which browser.
import {readFile} from "node:fs/promises";
import {createRequire} from "node:module";
import {createInterface} from "node:readline";
import {launch} from "./launch.mjs";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const lines = createInterface({input: process.stdin})[Symbol.asyncIterator]();
const {executable, proxy} = JSON.parse((await lines.next()).value);
const browser = await launch(executable, proxy);
const pages = new Map();

const steps = {
  // A person's own browser window: it shares nothing with the others. `first` runs in it before any script.
  async open({page: name, address, options, first}) {
    const context = await browser.newContext({viewport: {width: 1280, height: 900}, locale: "en-GB", ...options});
    const page = await context.newPage();
    page.setDefaultTimeout(30_000);
    page.seen = {requests: [], messages: []};
    page.on("request", (request) => page.seen.requests.push(request.url()));
    page.on("console", (message) => page.seen.messages.push(`${message.type()}: ${message.text()}`));
    page.on("pageerror", (error) => page.seen.messages.push(`pageerror: ${error.message}`));
    page.on("dialog", (dialog) => (page.seen.messages.push(`dialog: ${dialog.message()}`), dialog.dismiss()));
    pages.set(name, page);
    if (first) await page.addInitScript(first);
    await page.goto(address);
  },
  async call({page, method, args}) {
    const names = method.split(".");
    const owner = names.slice(0, -1).reduce((object, name) => object[name], pages.get(page));
    return (await owner[names.at(-1)](...args)) ?? null;
  },
  async at({page, selector, method, args}) {
    return (await pages.get(page).locator(selector)[method](...args)) ?? null;
  },
  async violations({page}) {
    await pages.get(page).evaluate(axe);
    const {violations} = await pages.get(page).evaluate(() => globalThis.axe.run(document));
    return violations.map(({id, nodes}) => [id, ...nodes.map(({html, any}) => `${html} ${any[0]?.message ?? ""}`)]);
  },
  seen: async ({page}) => pages.get(page).seen,
  close: async ({page}) => pages.get(page).context().close(),
};

async function carryOut({number, step, ...given}) {
  const tell = (said) => process.stdout.write(`${JSON.stringify({number, ...said})}\n`);
  try {
    const result = await steps[step](given);
    tell({result: Buffer.isBuffer(result) || typeof result === "function" ? null : simple(result)});
  } catch (error) {
    tell({error: String(error.stack)});
  }
}

// A navigation's answer is no plain value.
function simple(result) {
  return result && typeof result === "object" && typeof result.url === "function" ? null : (result ?? null);
}

for await (const line of lines) carryOut(JSON.parse(line));
await browser.close();
