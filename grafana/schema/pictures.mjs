// Opens each dashboard in a window that is as tall as the dashboard, waits until all panels have
// their data, and takes a picture.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join } from "node:path";

const [packages, folder, ...files] = process.argv.slice(2);
const { chromium } = createRequire(join(packages, "package.json"))("playwright-core");
const { CHROMIUM, GRAFANA = "http://localhost:3000", GRAFANA_USER = "admin", GRAFANA_PASSWORD = "admin" } = process.env;
const { FROM = "now-30m", VARIABLES = "", WIDTH = "1280" } = process.env;
const ROW = 38; // pixels of a row of the grid, with its margin
const FRAME = 150; // pixels above the first row
const credentials = Buffer.from(`${GRAFANA_USER}:${GRAFANA_PASSWORD}`).toString("base64");

const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
try {
  for (const file of files) {
    const board = JSON.parse(readFileSync(file, "utf8"));
    const rows = Math.max(...board.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
    const viewport = { width: Number(WIDTH), height: rows * ROW + FRAME };
    const page = await browser.newPage({ viewport, extraHTTPHeaders: { Authorization: `Basic ${credentials}` } });
    const query = [`from=${FROM}`, "to=now", "kiosk=1", "refresh=", VARIABLES].filter(Boolean).join("&");
    const answer = await page.goto(`${GRAFANA}/d/${board.uid}?${query}`, { waitUntil: "load" });
    if (!answer.ok()) throw new Error(`${answer.url()}: ${answer.status()}`);
    await page.getByText(board.panels[0].title, { exact: true }).first().waitFor();
    await page.waitForLoadState("networkidle");
    const picture = join(folder, basename(file).replace(/json$/, "png"));
    await page.screenshot({ path: picture });
    await page.close();
    console.log(picture);
  }
} catch (error) {
  console.error(`grafana/pictures: ${error.message}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
