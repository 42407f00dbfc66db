// node --test tests/js: the parts of the views that need no browser.

import assert from "node:assert/strict";
import test from "node:test";

import { lacking, numbers, withBuffers } from "../../widgets/lib/arrays.js";
import { MEASURES, viridis } from "../../widgets/lib/colour.js";
import { HIDDEN, count, percent, safe, seconds, visible } from "../../widgets/lib/format.js";
import { questionKey, savedModel, withLate } from "../../widgets/lib/page.js";

test("arrays: binary at any offset, base64, and what does not fit", () => {
  const bytes = new Uint8Array([9, 0, 0, 128, 63, 0, 0, 0, 64]); // a byte, then 1.0 and 2.0
  const view = new DataView(bytes.buffer, 1, 8);
  assert.deepEqual([...numbers({ view, dtype: "float32", shape: [2] })], [1, 2]);
  assert.deepEqual([...numbers({ view: btoa("\x01\x02\x03"), dtype: "uint8", shape: [3, 1] })], [1, 2, 3]);
  assert.equal(numbers({ view: "", dtype: "int32", shape: [0, 5] }).length, 0);
  assert.throws(() => numbers({ view, dtype: "float32", shape: [3] }), /12 bytes came with 8/);
  assert.throws(() => numbers({ view, dtype: "int64", shape: [1] }), /int64/);
});

test("buffers go back to where they were taken from", () => {
  assert.deepEqual(withBuffers({ a: [{ buffer: 1 }, 5], b: { buffer: 0, more: 1 }, c: null }, ["x", "y"]), {
    a: ["y", 5], b: { buffer: 0, more: 1 }, c: null,
  });
});

test("probabilities and times as people read them", () => {
  const shown = [1, 0.9999, 0.95, 0.621, 0.5, 0.099, 0.004, 0].map((p) => percent(Math.log(p)));
  assert.deepEqual(shown, ["100 %", "99.99 %", "95.0 %", "62.1 %", "50.0 %", "9.9 %", "0.4 %", "0 %"]);
  assert.equal(percent(NaN), "–");
  assert.equal(percent(-30), "<0.0001 %");
  assert.deepEqual([0.0042, 0.35, 1.239, 12.34, 125, 119.6].map(seconds), ["4.2 ms", "350 ms", "1.24 s", "12.3 s", "2 min 5 s", "2 min 0 s"]);
  assert.deepEqual([count(1, "token"), count(1234, "token"), count(2, "match", "matches")], ["1 token", "1,234 tokens", "2 matches"]);
});

test("what could disguise text is made visible", () => {
  assert.equal(safe("\u202egnp.exe\x1b"), "⟨202E⟩gnp.exe⟨1B⟩");
  assert.equal(safe("a\ud800b😀"), "a⟨D800⟩b😀");
  assert.equal(visible(" a\n"), "␣a↵");
  assert.equal(visible(""), "∅");
  assert.equal(visible("\u200d"), "⟨200D⟩");
  assert.equal(visible("\u{e0041}\ufeff"), "⟨E0041⟩⟨FEFF⟩");
  assert.equal(visible("\u0301"), "◌\u0301");
  assert.equal(visible("é"), "é");
  assert.equal(visible("x".repeat(38) + "😀😀😀"), `${"x".repeat(38)}😀…`);
  assert.deepEqual(["\u200b", "\u200d\u2060", "\u0301", "\u093e", "a\u0301", " ", ""].map((piece) => HIDDEN.test(piece)), [true, true, false, false, false, false, false]);
});

test("heat over a sound lies on the milliseconds of its frames", async () => {
  const { framesOf } = await import("../../widgets/lib/sights.js");
  const even = framesOf({ seconds: 0.41, frames: 11 });
  assert.equal(even.length, 82);
  assert.deepEqual([even[0], even[7], even[8], even[79], even[80], even[81]], [0, 0, 1, 9, 10, 10]);
  const array = (list) => ({ view: new DataView(new Float32Array(list).buffer), dtype: "float32", shape: [list.length] });
  const uneven = framesOf({ seconds: 0.1, frames: 2, starts: array([0, 0.02]), ends: array([0.02, 0.06]) });
  assert.deepEqual([uneven[3], uneven[4], uneven[11], uneven[12], uneven.at(-1)], [0, 1, 1, -1, -1]);
});

test("an upload that is cancelled in its last part is not added", async () => {
  const life = new AbortController(), asked = [];
  const ask = async ({ ask: name, offset = 0 }) => {
    asked.push(name);
    if (name === "part") life.abort();
    return name === "begin" ? { upload: 1 } : { received: offset + 4 };
  };
  const { upload } = await import("../../widgets/lib/upload.js");
  await assert.rejects(upload(new File([new Uint8Array(4)], "a.png"), ask, 1000, { signal: life.signal }), /cancelled/);
  assert.deepEqual(asked, ["begin", "part", "cancel"]);
});

test("how sure, in steps", () => {
  const { probability, entropy, rank } = MEASURES;
  assert.deepEqual([1, 0.5, 0.099, 1e-9].map((p) => probability.step({ logprob: Math.log(p) })), [9, 5, 0, 0]);
  assert.deepEqual([0, 1, 4, 9].map((e) => entropy.step({ entropy: e })), [9, 7, 0, 0]);
  assert.deepEqual([0, 1, 4, 9, 49, 50].map((r) => rank.step({ rank: r })), [9, 7, 5, 3, 1, 0]);
  assert.deepEqual([viridis(0), viridis(1), viridis(7)], [[68, 1, 84], [253, 231, 37], [253, 231, 37]]);
});

test("a saved model answers what was saved, says so otherwise, and forgets who left", async () => {
  const key = questionKey({ token: 3, ask: "attend" });
  assert.equal(key, '[["ask","attend"],["token",3]]');
  const model = savedModel({ selected: -1 }, { [key]: 7 });
  const replies = [];
  const heard = (message) => replies.push(message);
  model.on("msg:custom", heard);
  model.send({ id: "a", ask: "attend", token: 3 });
  model.send({ id: "b", ask: "attend", token: 4 });
  await null;
  assert.equal(replies[0].value, 7); // at once: the first paint has it
  await new Promise(setImmediate);
  assert.match(replies[1].error, /without that answer/);
  model.off("msg:custom", heard);
  model.send({ id: "c", ask: "attend", token: 3 });
  let changes = 0;
  model.on("change:selected", () => changes++);
  model.set("selected", 2);
  model.set("selected", 2);
  await new Promise(setImmediate);
  assert.deepEqual([replies.length, changes, model.get("selected")], [2, 1, 2]);
});

test("a saved model waits for answers that come later; late parts of data are read once they are asked for", async () => {
  const key = questionKey({ ask: "lens", media: 0 });
  let arrive = null;
  const model = savedModel({}, {}, () => new Promise((done) => { arrive = done; }));
  const replies = [];
  model.on("msg:custom", (message) => replies.push(message));
  model.send({ id: "a", ask: "lens", media: 0 });
  await new Promise(setImmediate);
  assert.equal(replies.length, 0);
  arrive({ [key]: "words" });
  await new Promise(setImmediate);
  assert.deepEqual(replies, [{ reply: "a", value: "words", error: "" }]);
  let reads = 0;
  const data = { tokens: { piece: ["a"] } };
  withLate(data, ["tokens.nearly"], () => { reads += 1; return { "tokens.nearly": { names: 5 } }; });
  assert.equal(lacking(data), false);
  assert.equal(reads, 0);
  assert.deepEqual(data.tokens.nearly, { names: 5 });
});

test("drafts: fates, shares and speeds that can be worked out by hand", async () => {
  const { byPosition, draftCost, fate, speed, tokensARound } = await import("../../widgets/lib/drafts.js");
  assert.deepEqual([0, 1, 2, 3].map((i) => fate(i, 1, 3, i <= 1)), ["kept", "thrown", "unjudged", ""]);
  assert.equal(fate(1, 1, 3, false), "unjudged"); // the run ended before it was judged
  // two rounds of two: both kept; none kept
  const rounds = { count: 2, k: 2, accepted: [2, 0], proposed: [2, 2], p: [-1, -1, -5, NaN], draftTime: [2, 2], verifyTime: [8, 8] };
  const shares = byPosition(rounds);
  assert.deepEqual(shares, [{ kept: 1, judged: 2 }, { kept: 1, judged: 1 }]);
  assert.deepEqual([0, 1, 2, 3].map((k) => tokensARound(shares, k)), [1, 1.5, 2, 2.5]);
  assert.equal(tokensARound([], 3), 1);
  assert.equal(speed(shares, 2, { row: 0, draft: 0 }), 2);
  assert.equal(speed(shares, 2, { row: 0.25, draft: 0.25 }), 1);
  assert.equal(draftCost(rounds, 0.5), 0.25); // a step takes 4 of the 8, a draft 1
  assert.equal(draftCost({ ...rounds, count: 0 }, 0.5), 0.1);
});

test("sounds: outline and WAV", async () => {
  const { mono, wavFile } = await import("../../widgets/lib/sound.js");
  const file = wavFile(Float32Array.from([0, 1, -1, 2]), 16000);
  const view = new DataView(file.buffer);
  assert.equal(file.length, 52);
  assert.equal(view.getUint32(24, true), 16000);
  assert.deepEqual([44, 46, 48, 50].map((at) => view.getInt16(at, true)), [0, 32767, -32767, 32767]);
  assert.deepEqual([...mono([[1, 0], [0, 0.5]])], [0.5, 0.25]);
});

test("a device that starts and cannot be used is let go", async (t) => {
  const { record, webcam } = await import("../../widgets/lib/devices.js");
  const here = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  t.after(() => {
    if (here) Object.defineProperty(globalThis, "navigator", here);
    else delete globalThis.navigator;
    delete globalThis.MediaRecorder;
  });
  let on = 0;
  const track = () => { on += 1; return { stop: () => { on -= 1; } }; };
  const getUserMedia = async () => { const one = track(); return { getTracks: () => [one] }; };
  Object.defineProperty(globalThis, "navigator", { configurable: true, value: { mediaDevices: { getUserMedia } } });
  const video = { play: async () => { throw new Error("no frames"); } };
  await assert.rejects(webcam(video, new AbortController().signal), /The camera did not start: no frames/);
  assert.equal(on, 0);
  globalThis.MediaRecorder = class { start() { throw new Error("no codec"); } };
  await assert.rejects(record(new AbortController().signal, 30, () => {}), /The microphone did not start: no codec/);
  assert.equal(on, 0);
});

test("uploads wait for each part, and stop when told", async () => {
  const { upload } = await import("../../widgets/lib/upload.js");
  const asked = [];
  const ask = async (question, buffers) => {
    asked.push([question.ask, question.offset ?? question.size, buffers?.[0].byteLength]);
    return question.ask === "begin" ? { upload: 7 } : { received: (question.offset ?? 0) + (buffers?.[0].byteLength ?? 0) };
  };
  const file = new File([new Uint8Array(10)], "a.png");
  const shares = [];
  await upload(file, ask, 4, { progress: (share) => shares.push(share), signal: new AbortController().signal });
  assert.deepEqual(asked, [["begin", 10, undefined], ["part", 0, 4], ["part", 4, 4], ["part", 8, 2], ["finish", undefined, undefined]]);
  assert.deepEqual(shares, [0.4, 0.8, 1]);
  asked.length = 0;
  const ended = new AbortController();
  ended.abort();
  await assert.rejects(upload(file, ask, 4, { signal: ended.signal }), /cancelled/);
  assert.deepEqual(asked.map(([what]) => what), ["begin", "cancel"]);
});

test("heat: colours, transparency, the hottest cell", async () => {
  const { heatPixels, hottest } = await import("../../widgets/lib/heat.js");
  assert.deepEqual([...heatPixels(Uint8Array.from([0, 255]), 1)], [68, 1, 84, 31, 253, 231, 37, 255]);
  assert.deepEqual([hottest([0, 3, 3]), hottest([0, 0])], [1, -1]);
});

test("questions: a kernel that is gone or cannot be reached is told, one that is busy is waited for", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval", "Date"] });
  const { asker } = await import("../../widgets/lib/view.js");
  const heard = new Map(), sent = [];
  let gone = false, broken = false;
  const model = {
    on: (event, f) => heard.set(event, f), off: (event) => heard.delete(event),
    send: (content) => {
      if (broken) throw new Error("closed");
      sent.push(content);
      if (content.ping) heard.get("msg:custom")({ pong: content.ping });
    },
  };
  const life = new AbortController();
  const ask = asker(model, life.signal, () => gone);
  const slow = ask({ ask: "a" });
  for (let k = 0; k < 30; k++) t.mock.timers.tick(10_000); // five minutes
  assert.equal(sent.filter(({ ping }) => ping).length, 30);
  heard.get("msg:custom")({ reply: sent[0].id, value: 5 });
  assert.equal(await slow, 5);
  const lost = ask({ ask: "b" });
  gone = true;
  heard.get("comm_live_update")();
  await assert.rejects(lost, /restarted or shut down.*run the cells again/);
  await assert.rejects(ask({ ask: "c" }), /restarted/);
  [gone, broken] = [false, true];
  await assert.rejects(ask({ ask: "d" }), /cannot be reached \(closed\)/);
  life.abort();
  assert.equal(heard.size, 0);
});

test("questions: answers find who asked; silence is told; leaving forgets", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval", "Date"] });
  const { asker } = await import("../../widgets/lib/view.js");
  const heard = new Set(), sent = [];
  const model = { on: (_, f) => heard.add(f), off: (_, f) => heard.delete(f), send: (content) => content.ask && sent.push(content) };
  const life = new AbortController();
  const ask = asker(model, life.signal);
  const [one, two] = [ask({ ask: "a" }), ask({ ask: "b" })];
  const tell = (message, buffers) => heard.forEach((f) => f(message, buffers));
  tell({ reply: sent[1].id, value: { v: { buffer: 0 } } }, ["bytes"]);
  tell({ reply: sent[0].id, error: "No." });
  tell({ reply: "another view's", value: 1 });
  assert.deepEqual(await two, { v: "bytes" });
  await assert.rejects(one, /No\./);
  const unheard = assert.rejects(ask({ ask: "c" }, undefined, 60), /has not answered for 60 s/);
  for (let k = 0; k < 7; k++) t.mock.timers.tick(10_000);
  await unheard;
  life.abort();
  assert.equal(heard.size, 0);
});

test("demo page: questions of all its views go one at a time, in order, and a long one is waited for", async (t) => {
  t.mock.timers.enable({ apis: ["setInterval", "Date"] });
  const { inTurn, remoteModel, sharedPick } = await import("../../widgets/demo_page.js");
  const { asker } = await import("../../widgets/lib/view.js");
  const sent = [];
  t.mock.method(globalThis, "fetch", (url, { body }) => new Promise((done) => {
    const question = JSON.parse(body);
    sent.push({ question, answer: (reply) => done({ json: async () => reply }) });
  }));
  const settle = () => new Promise((done) => setImmediate(done));
  const pick = sharedPick(), turn = inTurn(), life = new AbortController(), gone = new AbortController();
  const view = (signal) => asker(remoteModel({ data: {} }, "http://x/workbench/t", pick, turn), signal);
  const [one, two, three] = [view(life.signal), view(life.signal), view(gone.signal)];
  const media = [0, 1, 2, 3, 4, 5]; // of the demo's own limits: 4 pictures and 2 sounds
  const looks = media.map((medium) => one({ ask: "occlude", medium }));
  const [attend, left] = [two({ ask: "attend" }), three({ ask: "lens" })];
  gone.abort(); // its answer was replaced before the question was sent
  for (const medium of media) {
    await settle();
    assert.deepEqual(sent.map(({ question }) => question.medium), media.slice(0, medium + 1), "one more, and no more");
    for (let k = 0; k < 4; k++) t.mock.timers.tick(10_000); // longer than a kernel may be silent
    sent[medium].answer({ value: medium });
    assert.equal(await looks[medium], medium);
  }
  await settle();
  assert.deepEqual(sent.map(({ question }) => question.ask).slice(6), ["attend"]);
  sent[6].answer({ error: "No." });
  await assert.rejects(attend, /No\./);
  await settle();
  assert.equal(sent.length, 7, "nobody hears what the view that has gone asked");
  assert.equal(await Promise.race([left, Promise.resolve("nothing")]), "nothing");
  t.mock.method(globalThis, "fetch", async () => { throw new Error("offline"); });
  await assert.rejects(one({ ask: "attend" }), /did not answer \(offline\)/);
  life.abort();
});

test("demo page: a picked word is told to the view in front, and to the others when they come there", async () => {
  const { inTurn, remoteModel, sharedPick } = await import("../../widgets/demo_page.js");
  const pick = sharedPick(), turn = inTurn();
  const told = [[], [], []];
  const models = told.map((heard) => {
    const model = remoteModel({ selected: -1 }, "", pick, turn);
    model.on("change:selected", () => heard.push(model.get("selected")));
    pick.show(model);
    return model;
  });
  pick.show(models[0]); // the words, in which two are picked
  models[0].set("selected", 4);
  models[0].set("selected", 7);
  assert.deepEqual(told, [[4, 7], [], []]);
  pick.show(models[1]);
  models[1].set("selected", 2);
  assert.deepEqual(told, [[4, 7], [7, 2], []]);
  pick.show(models[0]);
  assert.deepEqual(told, [[4, 7, 2], [7, 2], []]);
  assert.equal(remoteModel({}, "", pick, turn).get("selected"), 2); // opened for the first time
});
