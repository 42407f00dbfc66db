// Heat on a grid of cells: viridis, the more the less transparent; the hottest cell is framed, so that colour is not all.

import { viridis } from "./colour.js";
import { h } from "./dom.js";

const TABLE = Array.from({ length: 256 }, (_, v) => viridis(v / 255));

/** RGBA bytes of cells 0 … 255. `strength` 0 … 1 is how much of a picture beneath is covered. */
export function heatPixels(cells, strength) {
  const pixels = new Uint8ClampedArray(4 * cells.length);
  for (let k = 0; k < cells.length; k++) {
    const [r, g, b] = TABLE[cells[k]];
    pixels.set([r, g, b, Math.round(255 * strength * (0.12 + (0.88 * cells[k]) / 255))], 4 * k);
  }
  return pixels;
}

/** Index of the largest; the first of several; -1 when all are 0. */
export function hottest(cells) {
  let best = -1, most = 0;
  for (let k = 0; k < cells.length; k++) if (cells[k] > most) [best, most] = [k, cells[k]];
  return best;
}

/** A canvas with one pixel a cell, to be stretched over what it belongs to. */
export function heatCanvas(label) {
  const canvas = h("canvas", { class: "wb-heat", role: "img", "aria-label": label });
  const paint = (cells, rows, cols, strength) => {
    [canvas.width, canvas.height] = [cols, rows];
    canvas.getContext("2d").putImageData(new ImageData(heatPixels(cells, strength), cols, rows), 0, 0);
  };
  return { canvas, paint };
}

/** Grey levels 0 … 255 as an opaque picture: a spectrogram. */
export function greyCanvas(cells, rows, cols, label) {
  const canvas = h("canvas", { class: "wb-grey", role: "img", "aria-label": label });
  [canvas.width, canvas.height] = [cols, rows];
  const pixels = new Uint8ClampedArray(4 * cells.length);
  cells.forEach((v, k) => pixels.set([v, v, v, 255], 4 * k));
  canvas.getContext("2d").putImageData(new ImageData(pixels, cols, rows), 0, 0);
  return canvas;
}
