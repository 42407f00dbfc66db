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
        word.textContent = safe(error.message.includes(file.name) ? error.message : `${file.name}: ${error.message}`);
      } finally {
        underway(-1);
      }
    });
  };
  const take = (event, list, items = []) => {
    const found = [...(list ?? [])];
    if (!found.length) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would open or upload it itself
    const folders = new Set([...items].map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry?.isDirectory).map((entry) => entry.name));
    found.filter((file) => !folders.has(file.name)).forEach(send);
    if (folders.size) complain(new Error(`${[...folders].map(safe).join(", ")} is a folder. Drop the files in it.`));
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
  drop.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return; // a link, or words: nothing to take
    event.preventDefault();
    event.stopPropagation();
  });
  drop.addEventListener("drop", (event) => { inside = 0; drop.classList.remove("over"); take(event, event.dataTransfer?.files, event.dataTransfer?.items); });
  drop.addEventListener("paste", (event) => take(event, event.clipboardData?.files));

  // --- what is there
  let sounding = null; // the key of the sound that plays
  let turn = 0; // of the presses: an answer, or an end, that comes late is of an earlier one
  const dress = () => {
    for (const node of cards.querySelectorAll("[data-play]")) {
      const on = node.dataset.play === String(sounding);
      node.textContent = on ? "Stop" : "Play";
      node.setAttribute("aria-label", `${on ? "Stop" : "Play"} ${node.dataset.name}`);
    }
  };
  const hush = () => {
    turn += 1;
    sounds.stop();
    sounding = null;
    dress();
  };
  const playOf = async (key) => {
    if (sounding === key) return hush();
    hush();
    const mine = turn;
    sounding = key;
    dress();
    try {
      const { wav } = await ask({ ask: "sound", key });
      if (turn !== mine) return; // another press meanwhile
      await sounds.play(binary(wav), { ended: () => { if (turn === mine) hush(); } });
    } catch (error) {
      if (turn === mine) hush();
      throw error;
    }
  };
  const card = (item, at, all, name) => {
    const act = (question) => tell(ask(question));
    const tools = [
      button("◀", () => act({ ask: "move", key: item.key, step: -1 }), { name: `Move ${name} forwards`, reason: at ? "" : "It is the first." }),
      button("▶", () => act({ ask: "move", key: item.key, step: 1 }), { name: `Move ${name} back`, reason: at < all - 1 ? "" : "It is the last." }),
    ];
    if (item.kind === "audio") {
      tools.unshift(button("Play", () => tell(playOf(item.key)), { "data-play": item.key, "data-name": name }));
    }
    tools.push(h("span", { class: "wb-push" }), button("✕", () => act({ ask: "remove", key: item.key }), { name: `Remove ${name}` }));
    const grid = item.kind === "image" ? ` · ${item.rows}×${item.cols} patches` : "";
    return h("li", { class: "wb-card", "data-key": item.key },
      item.kind === "image" ? picture(item) : !lacking(item) && outlineOf(numbers(item.low), numbers(item.high), { label: `Waveform of ${name}` }),
      h("strong", { class: "wb-name" }, h("bdi", {}, safe(item.name))),
      h("p", { class: "wb-num" }, `${item.about}${grid} · ${count(item.tokens, "token")}`),
      item.notes.map((note) => h("p", {}, safe(note))),
      h("div", { class: "wb-tools" }, tools));
  };
  // made once: what is replaced loses the focus, and a status that is replaced is not read aloud
  const status = h("span", { class: "wb-num", role: "status" });
  const removeAll = button("Remove all", () => tell(ask({ ask: "clear" }).then(() => drop.focus())));
  const budget = choice("Tokens a picture", [["", ""], ...data.budgets.map((n) => [String(n), `up to ${n}`])], "", (chosen) => {
    model.set("image_tokens", chosen === "" ? null : Number(chosen));
    model.save_changes();
  });
  const budgets = budget.querySelector("select");
  total.append(status, removeAll, budget);
  const draw = () => {
    const items = model.get("items");
    const active = document.activeElement?.closest?.(".wb-card");
    const held = active && cards.contains(active) ? { key: active.dataset.key, at: [...active.querySelectorAll("button")].indexOf(document.activeElement) } : null;
    const names = items.map((item) => safe(item.name));
    const named = names.map((name, k) => { // three pictures from the clipboard have one name
      const same = names.flatMap((other, j) => (other === name ? [j] : []));
      return same.length > 1 ? `${name}, ${same.indexOf(k) + 1} of ${same.length}` : name;
    });
    cards.replaceChildren(...items.map((item, k) => card(item, k, items.length, named[k])));
    if (sounding !== null && !items.some((item) => item.key === sounding)) hush();
    dress();
    if (held) ([...cards.children].find((one) => one.dataset.key === held.key)?.querySelectorAll("button")[held.at] ?? drop).focus();
    const tokens = items.reduce((n, item) => n + item.tokens, 0);
    status.textContent = items.length ? `${count(items.length, "item")}, ${count(tokens, "token")} of the prompt` : "Nothing added yet.";
    removeAll.hidden = items.length < 2;
    budgets.options[0].text = `default (${model.get("default_image_tokens")})`;
    budgets.value = String(model.get("image_tokens") ?? "");
  };
  body.append(drop, files, camera, cards, total);
  listen(model, "change:items", draw, signal);
  draw();
  if (model.get("sending")) underway(0); // of a page that was closed meanwhile
}

export default view("Pictures and sounds for the model", build);
