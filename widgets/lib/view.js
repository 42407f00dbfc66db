// What all views share: a frame that shows errors, questions with answers, and leaving nothing behind.

import { lacking, withBuffers } from "./arrays.js";
import { h } from "./dom.js";

/** Listen to a model until `signal` ends. */
export function listen(model, event, heard, signal) {
  model.on(event, heard);
  signal.addEventListener("abort", () => model.off(event, heard), { once: true });
}

const SILENCE = 30; // seconds without a sign of life after which a question is given up
const GONE = "The kernel was restarted or shut down. What stands here stays; to ask for more, run the cells again from the top.";

/**
 * A function that asks Python a question and promises the answer. It rejects with Python's words when that is an error,
 * and with a sentence when the kernel is gone or shows no sign of life for `patience` seconds. An answer may take longer
 * than that: the widget's Python side answers on a thread, so that it can say it is alive in the meantime.
 */
export function asker(model, signal, isGone = () => false) {
  const waiting = new Map();
  const me = Math.random().toString(36).slice(2, 8); // several views of one model see each other's answers
  let last = 0, timer = null;
  const giveUp = (id, words) => {
    waiting.get(id).reject(new Error(words));
    waiting.delete(id);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
  };
  const heard = (message, buffers) => {
    waiting.forEach((one) => { one.since = Date.now(); });
    const key = message?.reply;
    if (!waiting.has(key)) return;
    const { resolve, reject, question } = waiting.get(key);
    if (message.buffers > (buffers?.length ?? 0)) { // this host carries no binary: the same again, in base64
      model.send({ id: key, ...question, plain: true });
      return;
    }
    waiting.delete(key);
    if (message.error) reject(new Error(message.error));
    else resolve(withBuffers(message.value, buffers ?? []));
    if (!waiting.size) stop();
  };
  const look = () => {
    for (const [id, { since, patience }] of waiting) {
      if (Date.now() - since > 1000 * patience) giveUp(id, `The kernel has not answered for ${patience} s: it runs another cell, or was restarted. Try again.`);
    }
    if (!waiting.size) return stop();
    model.send({ ping: ++last });
  };
  listen(model, "msg:custom", heard, signal);
  listen(model, "comm_live_update", () => isGone() && [...waiting.keys()].forEach((id) => giveUp(id, GONE)), signal);
  signal.addEventListener("abort", stop, { once: true });
  return (question, buffers, patience = SILENCE) =>
    new Promise((resolve, reject) => {
      if (isGone()) return reject(new Error(GONE));
      const id = `${me}-${++last}`;
      waiting.set(id, { resolve, reject, question, patience, since: Date.now() });
      timer ??= setInterval(look, (1000 * Math.min(patience, SILENCE)) / 3);
      try {
        model.send({ id, ...question }, undefined, buffers);
      } catch (error) {
        giveUp(id, `The kernel cannot be reached (${error.message}). Run the cells again from the top.`);
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
 * JupyterLab takes plain keys for its own where no text is written: arrows leave the cell, `r` makes it Raw and the view
 * is gone. Keys with Ctrl, Alt or Cmd, and Shift+Enter, stay JupyterLab's.
 */
function keepKeys(signal) {
  document.body.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || (event.shiftKey && event.key === "Enter")) return;
    if (event.target.closest?.(".wb, .wb-bench")) event.stopPropagation();
  }, { signal });
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
      const gone = h("p", { class: "wb-gone", role: "status", hidden: true }, GONE);
      const frame = h("section", { class: "wb", "aria-label": label }, body, alert, gone);
      el.append(frame);
      followTheme(frame, life.signal);
      keepKeys(life.signal);
      const complain = (error) => {
        const words = error ? String(error.message ?? error) : "";
        alert.textContent = words;
        alert.hidden = !words || (words === GONE && !gone.hidden); // it stands there already
      };
      const isGone = () => Boolean(el.closest?.(".jupyter-widgets-disconnected")); // JupyterLab's and Notebook's mark
      const showGone = () => { gone.hidden = !isGone(); };
      listen(model, "comm_live_update", showGone, life.signal);
      const ask = asker(model, life.signal, isGone);
      let now = new AbortController();
      const draw = async () => {
        now.abort();
        const { signal } = (now = new AbortController());
        const held = body.contains(document.activeElement);
        body.replaceChildren();
        try {
          complain(model.get("error"));
          let data = model.get("data") ?? {};
          if (lacking(data)) {
            data = await ask({ ask: "data", plain: true });
            if (signal.aborted) return;
          }
          build({ model, body, ask, complain, data, signal });
          if (held) body.querySelector("[aria-selected=true], [tabindex='0'], button, select")?.focus({ preventScroll: true });
        } catch (error) {
          complain(error);
          console.error(error);
        }
      };
      listen(model, "change:data", draw, life.signal);
      listen(model, "change:error", () => complain(model.get("error")), life.signal);
      draw();
      requestAnimationFrame(showGone); // once it is in the page
      return () => {
        now.abort();
        life.abort();
        el.replaceChildren();
      };
    },
  };
}

/** What stands in a view that has nothing to draw; where an error says why, nothing. */
export function emptyNote(model, words) {
  return h("p", { class: "wb-note", hidden: Boolean(model.get("error")) }, words);
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
