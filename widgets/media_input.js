// Pictures and sounds: dropped, pasted, chosen, recorded, photographed, or named by their path.

import { binary, lacking, numbers } from "./lib/arrays.js";
import { record, webcam, whyNoDevices } from "./lib/devices.js";
import { button, choice, h } from "./lib/dom.js";
import { count, safe } from "./lib/format.js";
import { outlineOf, player } from "./lib/sound.js";
import { upload } from "./lib/upload.js";
import { listen, view } from "./lib/view.js";

const LONGEST = 30; // seconds that the model hears

function picture(item) {
  const image = h("img", { src: item.url, alt: `Picture: ${safe(item.name)}`, width: item.width, height: item.height });
  if (Math.max(item.width, item.height) < 100) image.classList.add("small");
  return h("span", { class: "wb-pic" }, image, h("i", { style: { "background-size": `calc(100%/${item.cols}) calc(100%/${item.rows})` } }));
}

function build({ model, body, ask, complain, data, signal }) {
  const cards = h("ul", { class: "wb-cards", "aria-label": "Pictures and sounds" });
  const files = h("ul", { class: "wb-files", "aria-label": "Uploads" });
  const total = h("div", { class: "wb-total" });
  const camera = h("div", { class: "wb-cam", hidden: true });
  const sounds = player(signal);
  let queue = Promise.resolve();

  let sending = 0;
  const underway = (step) => {
    sending += step;
    model.set("sending", sending);
    model.save_changes();
  };
  const tell = (promise) => promise.then(() => complain(""), complain);

  // --- bringing files in, one after the other, each with its own line until it is there
  const send = (file) => {
    const life = new AbortController();
    const bar = h("progress", { max: 1, value: 0, "aria-label": `Upload of ${safe(file.name)}` });
    const word = h("span", {}, safe(file.name || "pasted"));
    const line = h("li", {}, word, bar, button("✕", () => { life.abort(); line.remove(); }, { name: `Cancel ${safe(file.name)}` }));
    files.append(line);
    underway(1);
    queue = queue.then(async () => {
      try {
        if (life.signal.aborted || signal.aborted) return;
        await upload(file, ask, data.part, { progress: (share) => { bar.value = share; }, signal: AbortSignal.any([life.signal, signal]) });
        line.remove();
      } catch (error) {
        if (life.signal.aborted) return;
        line.className = "bad";
        line.setAttribute("role", "alert");
        bar.remove();
        word.textContent = safe(error.message);
      } finally {
        underway(-1);
      }
    });
  };
  const take = (event, list) => {
    const found = [...(list ?? [])];
    if (!found.length) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would open or upload it itself
    found.forEach(send);
  };
  const input = h("input", { type: "file", multiple: true, accept: "image/*,audio/*", hidden: true, "aria-label": "Choose files" });
  input.addEventListener("change", () => {
    [...input.files].forEach(send);
    input.value = "";
  });

  // --- microphone and webcam
  const nothing = whyNoDevices();
  let recording = null, starting = false, looking = false;
  const mic = button("● Record", () => tell((async () => {
    if (starting) return; // the second click of two: the first one's stream is on its way
    if (recording) {
      const mine = recording;
      recording = null;
      mic.textContent = "● Record";
      mic.classList.remove("wb-live");
      send(await mine.finish());
      return;
    }
    starting = true;
    try {
      const mine = await record(signal, LONGEST, () => recording === mine && mic.click());
      recording = mine;
    } finally {
      starting = false;
    }
    mic.textContent = "■ Stop recording";
    mic.classList.add("wb-live");
  })()), { reason: nothing, title: `From the microphone, at most ${LONGEST} seconds` });
  const cam = button("Webcam", () => tell((async () => {
    if (looking) return; // it is on, or about to be
    looking = true;
    const life = new AbortController();
    const close = () => { life.abort(); looking = false; camera.hidden = true; camera.replaceChildren(); cam.focus(); };
    const video = h("video", { playsinline: true, "aria-label": "Webcam" });
    video.muted = true;
    const eye = await webcam(video, AbortSignal.any([signal, life.signal])).catch((error) => { looking = false; throw error; });
    const shoot = button("Take picture", () => {
      shoot.setAttribute("aria-disabled", "true"); // one picture, however often it is pressed
      tell(eye.take().then((file) => { send(file); close(); }));
    });
    camera.replaceChildren(video, h("div", { class: "wb-tools" }, shoot, button("Cancel", close)));
    camera.hidden = false;
    shoot.focus();
  })()), { reason: nothing, title: "Take a still with the webcam" });

  // --- a file on the kernel's disk
  const path = h("input", { type: "text", placeholder: "or a path on the kernel's disk", "aria-label": "Path on the kernel's disk", spellcheck: "false" });
  const addPath = () => tell(ask({ ask: "path", path: path.value }).then(() => { path.value = ""; }));
  path.addEventListener("keydown", (event) => {
    event.stopPropagation(); // JupyterLab's shortcuts
    if (event.key === "Enter") addPath();
  });

  const drop = h("div", { class: "wb-drop", tabindex: "0", role: "group", "aria-label": "Add pictures and sounds: drop or paste here" },
    h("p", {}, "Drop or paste pictures and sounds here, or"),
    button("Choose files", () => input.click()), mic, cam, path, button("Add", addPath, { name: "Add the path" }), input);
  let inside = 0;
  drop.addEventListener("dragenter", (event) => { event.preventDefault(); inside += 1; drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => { inside -= 1; if (inside <= 0) drop.classList.remove("over"); });
  drop.addEventListener("dragover", (event) => { event.preventDefault(); event.stopPropagation(); });
  drop.addEventListener("drop", (event) => { inside = 0; drop.classList.remove("over"); take(event, event.dataTransfer?.files); });
  drop.addEventListener("paste", (event) => take(event, event.clipboardData?.files));

  // --- what is there
  const card = (item, at, all) => {
    const act = (question) => tell(ask(question));
    const name = safe(item.name);
    const tools = [
      button("◀", () => act({ ask: "move", key: item.key, step: -1 }), { name: `Move ${name} forwards`, reason: at ? "" : "It is the first." }),
      button("▶", () => act({ ask: "move", key: item.key, step: 1 }), { name: `Move ${name} back`, reason: at < all - 1 ? "" : "It is the last." }),
    ];
    if (item.kind === "audio") {
      const play = button("Play", () => tell((async () => {
        if (sounds.playing) return sounds.stop();
        const { wav } = await ask({ ask: "sound", key: item.key });
        play.textContent = "Stop";
        await sounds.play(binary(wav), { ended: () => { play.textContent = "Play"; } });
      })()), { name: `Play ${name}` });
      tools.unshift(play);
    }
    tools.push(h("span", { class: "wb-push" }), button("✕", () => act({ ask: "remove", key: item.key }), { name: `Remove ${name}` }));
    const grid = item.kind === "image" ? ` · ${item.rows}×${item.cols} patches` : "";
    return h("li", { class: "wb-card" },
      item.kind === "image" ? picture(item) : !lacking(item) && outlineOf(numbers(item.low), numbers(item.high), { label: `Waveform of ${name}` }),
      h("strong", { class: "wb-name" }, h("bdi", {}, name)),
      h("p", { class: "wb-num" }, `${item.about}${grid} · ${count(item.tokens, "token")}`),
      item.notes.map((note) => h("p", {}, safe(note))),
      h("div", { class: "wb-tools" }, tools));
  };
  const draw = () => {
    const items = model.get("items");
    const held = document.activeElement?.getAttribute?.("aria-label");
    const inCards = cards.contains(document.activeElement);
    cards.replaceChildren(...items.map((item, k) => card(item, k, items.length)));
    if (inCards) ([...cards.querySelectorAll("button")].find((b) => b.getAttribute("aria-label") === held) ?? drop).focus();
    const tokens = items.reduce((n, item) => n + item.tokens, 0);
    const standard = model.get("default_image_tokens");
    const value = model.get("image_tokens");
    total.replaceChildren(
      h("span", { class: "wb-num", role: "status" }, items.length ? `${count(items.length, "item")}, ${count(tokens, "token")} of the prompt` : "Nothing added yet."),
      items.length > 1 && button("Remove all", () => tell(ask({ ask: "clear" }))),
      choice("Tokens a picture", [["", `default (${standard})`], ...data.budgets.map((n) => [String(n), `up to ${n}`])], value === null ? "" : String(value), (chosen) => {
        model.set("image_tokens", chosen === "" ? null : Number(chosen));
        model.save_changes();
      }));
  };
  body.append(drop, files, camera, cards, total);
  listen(model, "change:items", draw, signal);
  draw();
  if (model.get("sending")) underway(0); // of a page that was closed meanwhile
}

export default view("Pictures and sounds for the model", build);
