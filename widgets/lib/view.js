// What all views share: a frame that shows errors, questions with answers, and leaving nothing behind.

import { withBuffers } from "./arrays.js";
import { h } from "./dom.js";

/** Listen to a model until `signal` ends. */
export function listen(model, event, heard, signal) {
  model.on(event, heard);
  signal.addEventListener("abort", () => model.off(event, heard), { once: true });
}

/**
 * A function that asks Python a question and promises the answer; an error of Python's rejects with its words, and so
 * does silence of so many seconds, where they are given.
 */
export function asker(model, signal) {
  const waiting = new Map();
  const me = Math.random().toString(36).slice(2, 8); // several views of one model see each other's answers
  let last = 0;
  const heard = (message, buffers) => {
    const key = message?.reply;
    if (!waiting.has(key)) return;
    const { resolve, reject } = waiting.get(key);
    waiting.delete(key);
    if (message.error) reject(new Error(message.error));
    else resolve(withBuffers(message.value, buffers ?? []));
  };
  listen(model, "msg:custom", heard, signal);
  return (question, buffers, patience) =>
    new Promise((resolve, reject) => {
      const id = `${me}-${++last}`;
      waiting.set(id, { resolve, reject });
      model.send({ id, ...question }, undefined, buffers);
      if (patience) {
        setTimeout(() => {
          if (!waiting.delete(id)) return;
          reject(new Error(`The kernel has not answered for ${patience} s: it runs another cell, or was restarted. Try again.`));
        }, 1000 * patience);
      }
    });
}

/** Mark the frame as dark when its background is, whoever decides that: JupyterLab, VS Code or the system. */
function followTheme(frame, signal) {
  const look = () => {
    const [r, g, b, a = 1] = getComputedStyle(frame).backgroundColor.match(/[\d.]+/g).map(Number);
    frame.toggleAttribute("data-dark", a > 0 && 0.2126 * r + 0.7152 * g + 0.0722 * b < 128);
  };
  const watch = new MutationObserver(look);
  watch.observe(document.body, { attributes: true, attributeFilter: ["class", "data-jp-theme-light", "data-jp-theme-name"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", look, { signal });
  signal.addEventListener("abort", () => watch.disconnect(), { once: true });
  requestAnimationFrame(look); // once it is in the page and styled
}

/**
 * A view as anywidget wants it. `build` draws into `body` and is called again when `data` changes, with a signal that
 * ends when that happens or when the cell is removed.
 */
export function view(label, build) {
  return {
    render({ model, el }) {
      const life = new AbortController();
      const body = h("div", { class: "wb-body" });
      const alert = h("p", { class: "wb-error", role: "alert", hidden: true });
      const frame = h("section", { class: "wb", "aria-label": label }, body, alert);
      el.append(frame);
      followTheme(frame, life.signal);
      const complain = (error) => {
        alert.textContent = error ? String(error.message ?? error) : "";
        alert.hidden = !error;
      };
      const ask = asker(model, life.signal);
      let now = new AbortController();
      const draw = () => {
        now.abort();
        now = new AbortController();
        body.replaceChildren();
        try {
          complain(model.get("error"));
          build({ model, body, ask, complain, data: model.get("data") ?? {}, signal: now.signal });
        } catch (error) {
          complain(error);
          console.error(error);
        }
      };
      listen(model, "change:data", draw, life.signal);
      listen(model, "change:error", () => complain(model.get("error")), life.signal);
      draw();
      return () => {
        now.abort();
        life.abort();
        el.replaceChildren();
      };
    },
  };
}

/** Call `later` once for many calls within a frame. */
export function eachFrame(later) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      later();
    });
  };
}
