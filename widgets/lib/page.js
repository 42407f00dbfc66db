// Views in a page without a kernel: a model that answers from what was saved in the page.

/** What a view asks is looked up by its words, without the order of the keys: the same on Python's side. */
export function questionKey(question) {
  return JSON.stringify(Object.keys(question).sort().map((name) => [name, question[name]]));
}

/**
 * The part of an anywidget model that our views use. `answers` has the values of questions that were saved; those that
 * are not among them are looked for in what `more` promises.
 */
export function savedModel(state, answers, more = async () => ({})) {
  const values = { error: "", ...state };
  const heard = new Map();
  const of = (event) => heard.get(event) ?? heard.set(event, new Set()).get(event);
  const tell = (event, ...what) => [...of(event)].forEach((listener) => listener(...what));
  return {
    get: (name) => values[name],
    set(name, value) {
      if (values[name] === value) return;
      values[name] = value;
      tell(`change:${name}`);
    },
    save_changes() {},
    on: (event, listener) => of(event).add(listener),
    off: (event, listener) => of(event).delete(listener),
    async send({ id, ...question }) {
      const key = questionKey(question);
      const value = answers[key] ?? (await more())[key];
      const error = value === undefined ? "This page was saved without that answer. Open the trace with its model to ask." : "";
      queueMicrotask(() => tell("msg:custom", { reply: id, value, error }));
    },
  };
}

/** Parts of a view's data that are read once they are asked for: `read()` gives them by their path, as "tokens.nearly". */
export function withLate(data, paths, read) {
  for (const path of paths) {
    const names = path.split("."), last = names.pop();
    const owner = names.reduce((part, name) => part[name], data);
    Object.defineProperty(owner, last, { get: () => read()[path] });
  }
}

/**
 * Draw every view of the page; all of them share the selected word. What the first sight of them does not need stands
 * behind this script, so that they can be seen before it is read; until then they cannot be pointed at.
 */
export function showPage(views, saved) {
  const main = document.querySelector("main");
  const whole = new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
  let rest = null;
  const read = () => (rest ??= JSON.parse([...document.querySelectorAll("script.rest")].map((part) => part.textContent).join("")));
  main.inert = true;
  whole.then(() => { main.inert = false; });
  const models = saved.map(({ state, answers, late }, k) => {
    withLate(state.data, late, () => read()[k].late);
    return savedModel(state, answers, () => whole.then(() => read()[k].answers));
  });
  models.forEach((model, k) => {
    model.on("change:selected", () => models.forEach((other) => other.set("selected", model.get("selected"))));
    views[saved[k].view].render({ model, el: document.getElementById(saved[k].id) });
  });
}
