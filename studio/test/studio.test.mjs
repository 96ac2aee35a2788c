// The page in Chromium, beside a studio that this test starts. SORAGEN_STUDIO is its executable, SORAGEN the command; SCREENSHOT is a file for
// a picture of the page.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";

import AxeBuilder from "@axe-core/playwright";
import { chromium } from "playwright-core";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
  "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
const folder = mkdtempSync(join(tmpdir(), "studio-"));
const keys = join(folder, "keys");
let studio, address, browser, context, page;

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

async function start(...words) {
  const port = await freePort();
  const made = spawn(process.env.SORAGEN_STUDIO, ["a red fox stands in a meadow", "--port", port, "--recordings", folder, "--keys", keys, ...words]);
  made.stderr.pipe(process.stderr);
  const lines = createInterface({ input: made.stdout });
  const line = await new Promise((done) => lines.once("line", done));
  return [made, line];
}

/** The pixels of the video, as one number for each of 64 places. */
const pixels = (page) => page.evaluate(() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 8;
  const context = canvas.getContext("2d");
  context.drawImage(document.getElementById("video"), 0, 0, 8, 8);
  return [...context.getImageData(0, 0, 8, 8).data].filter((_, i) => i % 4 !== 3);
});

const difference = (a, b) => a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length;

async function until(what, condition, timeout = 30_000) {
  const end = Date.now() + timeout;
  for (;;) {
    const found = await condition();
    if (found) return found;
    assert.ok(Date.now() < end, `${what} within ${timeout} ms`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

const show = async (page, prompt) => {
  await page.fill("#prompt", prompt);
  await page.press("#prompt", "Enter");
};
const shots = (page) => page.locator("#shots li").allTextContents();

before(async () => {
  execFileSync(process.env.SORAGEN, ["certificate", keys]);
  [studio, address] = await start();
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
  context = await browser.newContext();
  page = await context.newPage();
  await page.goto(address);
});

after(async () => {
  await browser?.close();
  studio?.kill("SIGINT");
  rmSync(folder, { recursive: true, force: true });
});

test("the video plays and is not black", async () => {
  await until("the picture", async () => (await pixels(page)).some((value) => value > 60));
  const time = () => page.evaluate(() => document.getElementById("video").currentTime);
  const first = await time();
  await until("the video goes on", async () => (await time()) > first + 1);
});

test("a typed prompt changes the picture", async () => {
  const earlier = await pixels(page);
  await show(page, "a whale swims under water");
  const sent = Date.now();
  await until("the shot", async () => (await shots(page))[0]?.includes("a whale swims under water"));
  console.log(`# the shot began after ${Date.now() - sent} ms`);
  await until("a change", async () => difference(await pixels(page), earlier) > 5);
  console.log(`# the picture began to change after ${Date.now() - sent} ms`);
  await until("another picture", async () => difference(await pixels(page), earlier) > 15);
  console.log(`# it was another one after ${Date.now() - sent} ms`);
});

test("a cut is a new scene at once", async () => {
  await page.fill("#prompt", "a rocket stands in the desert");
  await page.click("#cut");
  await until("the shot", async () => (await shots(page))[0]?.includes("a rocket stands in the desert"));
});

test("a refused prompt is told, and the picture stays", async () => {
  const before = (await shots(page)).length;
  await show(page, "a fox :: red");
  await until("the refusal", async () => (await page.textContent("#refusal")).includes("no weight"));
  assert.equal((await shots(page)).length, before);
});

test("knobs set properties, and the page cannot name files", async () => {
  await page.fill("[name=seed]", "7");
  await page.press("[name=seed]", "Enter");
  await until("the shot with the seed", async () => (await shots(page)).length > 2);
  await page.fill("[name=reference]", "/etc/passwd");
  await page.press("[name=reference]", "Tab");
  await until("the refusal", async () => (await page.textContent("#refusal")).includes("reference"));
  await page.fill("[name=reference]", "bank:wolf");
  await page.press("[name=reference]", "Tab");
  await until("the drawing", async () => (await shots(page))[0]?.includes("bank:wolf"));
});

test("an uploaded picture is a subject", async () => {
  const svg = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'><circle cx='4' cy='4' r='3' fill='lime'/></svg>";
  await page.setInputFiles("#upload", { name: "dot.svg", mimeType: "image/svg+xml", buffer: Buffer.from(svg) });
  await until("the picture", async () => (await shots(page))[0]?.includes("dot.svg"));
  assert.match(await page.inputValue("[name=reference]"), /^upload:dot.svg/);
  await page.setInputFiles("#upload", { name: "text.png", mimeType: "image/png", buffer: Buffer.from("text") });
  await until("the refusal", async () => (await page.textContent("#refusal")).includes("text.png"));
});

test("a storyboard plays its shots at their times", async () => {
  const board = (text) => page.setInputFiles("#storyboard", { name: "board.txt", mimeType: "text/plain", buffer: Buffer.from(text) });
  await board("0:00 an owl in the forest | 0:02 (cut) a wolf in the snow | 0:04");
  await until("the first shot", async () => (await shots(page))[0]?.includes("an owl in the forest"));
  assert.match(await page.textContent("#to-come"), /1 shots/);
  await until("the second shot", async () => (await shots(page))[0]?.includes("a wolf in the snow"));
  await until("no more", async () => (await page.textContent("#to-come")) === "");
  await board("0:00 a fox | 0:00 a wolf");
  await until("the refusal", async () => (await page.textContent("#refusal")).includes("storyboard"));
});

test("the browser's camera is changed by the prompt, and leaves", async () => {
  // Chromium's test picture is green, with a clock.
  const isGreen = async () => {
    const [red, green, blue] = [0, 1, 2].map((channel) => pixels(page).then((all) => all.reduce((sum, value, i) => sum + (i % 3 === channel) * value, 0)));
    return (await green) > 1.5 * Math.max(await red, await blue);
  };
  await page.click("#camera");
  await until("the camera", async () => (await page.getAttribute("#camera", "aria-pressed")) === "true");
  assert.ok(await page.isEnabled("[name=strength]"));
  await until("its picture", isGreen);
  const shown = (await shots(page)).length;
  await show(page, "a garden at night");
  await until("the shot", async () => (await shots(page)).length > shown && (await shots(page))[0].includes("a garden at night"));
  assert.equal(await page.textContent("#refusal"), "");
  await page.click("#camera");
  await until("no camera", async () => (await page.getAttribute("#camera", "aria-pressed")) === "false");
  await until("the model's picture", async () => !(await isGreen()));
});

test("a second viewer joins, and a closed tab leaves nothing", async () => {
  const viewers = async () => Number(await page.textContent("#viewers"));
  await until("one viewer", async () => (await viewers()) === 1);
  const second = await context.newPage();
  await second.goto(address);
  await until("two viewers", async () => (await viewers()) === 2);
  await until("the picture", async () => (await pixels(second)).some((value) => value > 60));
  await second.close();
  // Counted by weak references to the connections.
  await until("one viewer", async () => (await viewers()) === 1);
});

test("a recording is a signed file", async () => {
  await page.click("#record");
  await until("the button", async () => (await page.getAttribute("#record", "aria-pressed")) === "true");
  await new Promise((done) => setTimeout(done, 1000));
  await page.keyboard.press("Alt+r");
  await until("the end", async () => (await page.getAttribute("#record", "aria-pressed")) === "false");
  const [file, ...more] = readdirSync(folder).filter((name) => name.endsWith(".mp4"));
  assert.deepEqual(more, []);
  const report = JSON.parse(execFileSync(process.env.SORAGEN, ["detect", join(folder, file)]));
  assert.deepEqual([report.c2pa.state, report.c2pa.generated], ["valid", true]);
});

test("all controls can be reached by keyboard, and axe finds no violation", async () => {
  const controls = await page.evaluate(() =>
    [...document.querySelectorAll(":is(button, input, select, textarea):enabled")].map((control) => control.id || control.name || control.textContent));
  const reached = new Set();
  await page.focus("#prompt");
  for (let i = 0; i < 2 * controls.length + 4; i++) {
    reached.add(await page.evaluate(() => {
      const at = document.activeElement;
      return at.id || at.name || at.textContent;
    }));
    await page.keyboard.press("Tab");
  }
  assert.deepEqual(controls.filter((control) => !reached.has(control)), []);
  const { violations } = await new AxeBuilder({ page }).analyze();
  assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]), []);
});

test("the page fits a phone", async () => {
  await page.setViewportSize({ width: 390, height: 800 });
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  await page.setViewportSize({ width: 1280, height: 800 });
  assert.ok(width <= 390, `${width}`);
  if (process.env.SCREENSHOT) {
    await page.fill("[name=reference]", "");
    await page.press("[name=reference]", "Tab");
    await page.fill("#prompt", "a red fox stands in a meadow, it snows");
    await page.click("#cut");
    await until("the shot", async () => (await shots(page))[0]?.includes("it snows"));
    await new Promise((done) => setTimeout(done, 2000));
    await page.screenshot({ path: process.env.SCREENSHOT });
  }
});

test("with a token the page and the HLS stream need it, over HTTPS", async () => {
  const [second, guarded] = await start("--https", "--token", "a-long-secret", "--hls");
  try {
    const other = await browser.newContext({ ignoreHTTPSErrors: true });
    const without = await other.newPage();
    await without.goto(new URL(guarded).origin);
    await until("no connection", async () => (await without.textContent("#state")).includes("lost"));
    const allowed = await other.newPage();
    await allowed.goto(guarded);
    await until("the picture", async () => (await pixels(allowed)).some((value) => value > 60));
    const list = await until("the HLS stream", async () => {
      const answer = await other.request.get(new URL(`/hls/stream.m3u8?token=a-long-secret`, guarded).href);
      return answer.ok() && (await answer.text()).includes(".ts") && answer.text();
    });
    const piece = list.split("\n").find((line) => line.includes(".ts"));
    const bytes = await (await other.request.get(new URL(`/hls/${piece}`, guarded).href)).body();
    assert.equal(bytes[0], 0x47);
    assert.equal((await other.request.get(new URL("/hls/stream.m3u8", guarded).href)).status(), 401);
    await other.close();
  } finally {
    second.kill("SIGINT");
  }
});
