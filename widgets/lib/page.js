// Views in a page without a kernel: a model that answers from what was saved in the page.

/** What a view asks is looked up by its words, without the order of the keys: the same on Python's side. */
export function questionKey(question) {
  return JSON.stringify(Object.keys(question).sort().map((name) => [name, question[name]]));
}

/** The part of an anywidget model that our views use. `answers` has the value of every question that was saved. */
export function savedModel(state, answers) {
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
    send({ id, ...question }) {
      const value = answers[questionKey(question)];
      const error = value === undefined ? "This page was saved without that answer. Open the trace with its model to ask." : "";
      queueMicrotask(() => tell("msg:custom", { reply: id, value, error }));
    },
  };
}

/** Draw every view of the page; all of them share the selected word. */
export function showPage(views, saved) {
  const models = saved.map(({ state, answers }) => savedModel(state, answers ?? {}));
  models.forEach((model, k) => {
    model.on("change:selected", () => models.forEach((other) => other.set("selected", model.get("selected"))));
    views[saved[k].view].render({ model, el: document.getElementById(saved[k].id) });
  });
}
