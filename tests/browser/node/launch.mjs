// Starts Chromium the way all tests do.
import {chromium} from "playwright-core";

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // What the browser would ask its own maker at every start: it is not part of any page.
  "--gaia-url=http://127.0.0.1:1",
  "--component-updater=url-source=http://127.0.0.1:1/",
  "--autofill-server-url=http://127.0.0.1:1/",
];

export function launch(executable, proxy) {
  return chromium.launch({
    executablePath: executable,
    headless: true,
    // What is not for this machine goes to the test's proxy, which counts it; nothing else decides where a request goes.
    args: [...FLAGS, `--proxy-server=${proxy}`, "--proxy-bypass-list=127.0.0.1"],
  });
}
