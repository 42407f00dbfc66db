// Sounds: an outline to look at, a WAV file from what a microphone gave, and playing with one player at a time.

import { svg } from "./dom.js";

/** The outline of a sound as SVG, from the lowest and highest sample (-127 … 127) of each column. */
export function outlineOf(low, high, { width = 240, height = 48, label = "waveform" } = {}) {
  const middle = height / 2, scale = (height / 2 - 2) / 127, step = width / Math.max(1, low.length);
  const points = [];
  for (let k = 0; k < high.length; k++) points.push([(k + 0.5) * step, Math.min(middle - scale * high[k], middle - 0.5)]);
  for (let k = low.length - 1; k >= 0; k--) points.push([(k + 0.5) * step, Math.max(middle - scale * low[k], middle + 0.5)]);
  const d = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "wb-wave", role: "img", "aria-label": label, preserveAspectRatio: "none" },
    svg("path", { d: `M${d}Z` }));
}

/** Mono samples within ±1 as a 16-bit WAV file. */
export function wavFile(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, word) => [...word].forEach((c, k) => view.setUint8(at + k, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((s, k) => view.setInt16(44 + 2 * k, Math.round(32767 * Math.max(-1, Math.min(1, s))), true));
  return new Uint8Array(view.buffer);
}

/** Channels of one length, averaged. */
export function mono(channels) {
  return Float32Array.from(channels[0], (_, k) => channels.reduce((sum, c) => sum + c[k], 0) / channels.length);
}

/** A player of WAV bytes that leaves no object URL behind. `ended` is called however it ends; `at` with its seconds. */
export function player(signal, { at = () => {} } = {}) {
  let audio = null, address = "", done = () => {};
  const stop = () => {
    if (!audio) return;
    audio.pause();
    URL.revokeObjectURL(address);
    audio = null;
    done();
  };
  signal.addEventListener("abort", stop, { once: true });
  const tick = (mine) => {
    if (mine !== audio) return;
    at(mine.currentTime);
    requestAnimationFrame(() => tick(mine));
  };
  const play = async (bytes, { from = 0, ended = () => {} } = {}) => {
    stop();
    address = URL.createObjectURL(new Blob([bytes], { type: "audio/wav" }));
    const mine = (audio = new Audio(address));
    done = ended;
    mine.addEventListener("ended", () => mine === audio && stop());
    mine.currentTime = from;
    try {
      await mine.play();
    } catch (error) {
      if (mine === audio) stop(); // a pause() while it was starting is no error
      if (error.name !== "AbortError") throw error;
    }
    tick(mine);
  };
  return { play, stop, get playing() { return audio !== null; } };
}
