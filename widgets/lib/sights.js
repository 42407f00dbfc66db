// What heat lies on: a picture, a sound, and the words.

import { numbers } from "./arrays.js";
import { button, h } from "./dom.js";
import { safe } from "./format.js";
import { greyCanvas, heatCanvas, hottest } from "./heat.js";
import { outlineOf } from "./sound.js";
import { shown } from "./words.js";

const FRAME = 0.04; // seconds of sound in a token
const COLUMN = 0.005, HOP = 0.02; // seconds of a column of heat, and of a spectrogram's

/** For each column of a sound, which frame it lies in; -1 where none does. Frames need not be as long as one another. */
export function framesOf(sound) {
  const starts = sound.starts ? numbers(sound.starts) : Array.from({ length: sound.frames }, (_, k) => k * FRAME);
  const ends = sound.ends ? numbers(sound.ends) : starts.map((start) => start + FRAME);
  let k = 0;
  return Array.from({ length: Math.max(1, Math.round(sound.seconds / COLUMN)) }, (_, column) => {
    const t = (column + 0.5) * COLUMN;
    while (k + 1 < starts.length && t >= ends[k]) k += 1;
    return t >= starts[k] && t < ends[k] ? k : -1;
  });
}

export const share = (v) => `${(100 * v).toFixed(v < 0.0995 ? 2 : 1)} %`;

/** A picture under heat. `onpoint` is told the patch under the mouse, or -1. */
export function scene(picture, { label, onpoint }) {
  const heat = heatCanvas(`${label} on ${safe(picture.name)}`);
  const mark = h("span", { class: "wb-mark", hidden: true });
  const caption = h("figcaption", {});
  const image = h("img", { src: picture.url, alt: `Picture ${picture.media}: ${safe(picture.name)}` });
  if (picture.width < 200) image.classList.add("small");
  const here = h("span", { class: "wb-here", hidden: true });
  const stage = h("div", { class: "wb-stage", tabindex: "0", role: "application", "aria-label": `${label} on ${safe(picture.name)}: arrow keys go from patch to patch` }, image, heat.canvas,
    h("i", { class: "wb-lines", style: { "background-size": `calc(100%/${picture.cols}) calc(100%/${picture.rows})` } }), mark, here);
  const put = (node, patch) => {
    node.hidden = patch < 0;
    const [row, col] = [Math.floor(patch / picture.cols), patch % picture.cols];
    Object.assign(node.style, {
      left: `${(100 * col) / picture.cols}%`, top: `${(100 * row) / picture.rows}%`,
      width: `${100 / picture.cols}%`, height: `${100 / picture.rows}%`,
    });
  };
  let at = -1; // by keyboard
  const go = (patch) => {
    at = patch;
    put(here, at);
    if (at >= 0) caption.setAttribute("aria-live", "polite"); // it is read aloud while one goes about in it, and only then
    else caption.removeAttribute("aria-live");
    onpoint(at);
  };
  stage.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (event.key === "Escape" && at >= 0) return go(-1);
    if (!step) return;
    event.preventDefault();
    const now = at >= 0 ? at : Math.max(0, Number(stage.dataset.hottest ?? 0));
    const [row, col] = at < 0 ? [Math.floor(now / picture.cols), now % picture.cols] : [Math.floor(now / picture.cols) + step[0], (now % picture.cols) + step[1]];
    if (row >= 0 && row < picture.rows && col >= 0 && col < picture.cols) go(row * picture.cols + col);
  });
  stage.addEventListener("blur", () => at >= 0 && go(-1));
  stage.addEventListener("pointermove", (event) => {
    const box = stage.getBoundingClientRect();
    const [col, row] = [((event.clientX - box.left) / box.width) * picture.cols, ((event.clientY - box.top) / box.height) * picture.rows].map(Math.floor);
    if (row >= 0 && row < picture.rows && col >= 0 && col < picture.cols) onpoint(row * picture.cols + col);
  });
  stage.addEventListener("pointerleave", () => onpoint(-1));
  const paint = (cells, strength) => {
    heat.paint(cells, picture.rows, picture.cols, strength);
    const best = hottest(cells);
    stage.dataset.hottest = best;
    put(mark, best);
  };
  const width = `${Math.max(9, (24 * picture.width) / picture.height).toFixed(1)}rem`; // tall pictures stay on the screen
  const blank = () => paint(new Uint8Array(picture.rows * picture.cols), 0);
  return { element: h("figure", { class: "wb-scene", style: { "--width": width } }, stage, caption), caption, paint, blank };
}

/** A waveform under heat, with a spectrogram on demand; a click plays from there. `play` and `stop` are of one player. */
export function soundOf(sound, { label, ask, complain, play, stop }) {
  const heat = heatCanvas(`${label} on ${safe(sound.name)}`);
  const cursor = h("span", { class: "wb-cursor", hidden: true });
  const caption = h("figcaption", {});
  const stage = h("div", {
    class: "wb-stage", tabindex: "0", role: "slider", "aria-label": `Where to play ${safe(sound.name)} from: arrows move, Enter plays`,
    "aria-valuemin": "0", "aria-valuemax": sound.seconds.toFixed(2), "aria-valuenow": "0",
  }, heat.canvas, outlineOf(numbers(sound.low), numbers(sound.high), { width: 600, height: 74, label: `Waveform of ${safe(sound.name)}` }), cursor);
  const put = (seconds) => {
    cursor.hidden = seconds === null;
    if (seconds !== null) cursor.style.left = `${(100 * seconds) / sound.seconds}%`;
  };
  let sounding = false;
  const start = button("▶ Play", () => (sounding ? stop() : play(sound, 0, at)), { name: `Play ${safe(sound.name)}` });
  const at = (seconds) => { // told by the player: null once it ended
    put(seconds);
    if (sounding === (seconds !== null)) return;
    sounding = !sounding;
    start.textContent = sounding ? "■ Stop" : "▶ Play";
    start.setAttribute("aria-label", `${sounding ? "Stop" : "Play"} ${safe(sound.name)}`);
  };
  stage.addEventListener("click", (event) => {
    const box = stage.getBoundingClientRect();
    play(sound, ((event.clientX - box.left) / box.width) * sound.seconds, at);
  });
  let from = 0;
  stage.addEventListener("keydown", (event) => {
    const to = { ArrowRight: from + FRAME, ArrowLeft: from - FRAME, Home: 0, End: sound.seconds - FRAME }[event.key];
    if (to === undefined && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    if (to === undefined) return play(sound, from, at);
    from = Math.max(0, Math.min(sound.seconds - FRAME, to));
    stage.setAttribute("aria-valuenow", from.toFixed(2));
    put(from);
  });
  const spectrum = button("Spectrogram", async () => {
    try {
      const old = stage.querySelector(".wb-grey");
      if (old) {
        old.remove();
        stage.classList.remove("tall");
      } else {
        const { cells } = await ask({ ask: "spectrogram", media: sound.media });
        const grey = greyCanvas(numbers(cells), cells.shape[0], cells.shape[1], `Spectrogram of ${safe(sound.name)}, 50 Hz to 8 kHz`);
        grey.style.width = `${(100 * cells.shape[1] * HOP) / sound.seconds}%`; // its last column may reach beyond the end
        stage.prepend(grey);
        stage.classList.add("tall");
      }
      spectrum.setAttribute("aria-pressed", String(!old));
    } catch (error) {
      complain(error);
    }
  }, { pressed: false });
  const columns = framesOf(sound);
  const paint = (cells, strength) => {
    heat.paint(Uint8Array.from(columns, (k) => cells[k] ?? 0), 1, columns.length, strength);
    stage.dataset.hottest = hottest(cells);
  };
  return {
    element: h("figure", { class: "wb-sound" }, stage, h("div", { class: "wb-steps" }, start, spectrum), caption),
    caption, paint, blank: () => paint(new Uint8Array(sound.frames), 0),
  };
}

/** Words under heat: of prompt and answer. */
export function wordsUnderHeat(pieces) {
  const spans = pieces.map(([position, piece, special]) => h("span", { class: special ? "wb-chip" : "", title: `position ${position}` }, shown(piece, special)));
  const element = h("div", { class: "wb-context", tabindex: "0", role: "region", dir: "auto", "aria-label": "Words of prompt and answer, by attention" }, spans);
  const paint = (map) => {
    const cells = numbers(map.cells);
    spans.forEach((span, k) => {
      const v = cells[k] / 255;
      if (v > 0.02) {
        span.dataset.v = "";
        span.style.setProperty("--v", v.toFixed(3));
      } else delete span.dataset.v;
      span.title = `position ${pieces[k][0]}: ${share(v * map.most)}`;
    });
  };
  return { element, paint };
}
