// The part of the demo's page that shows an answer: words as they come, then the views of the notebook, in tabs.
//
// It draws into a shadow root, so that neither Gradio's styles nor its redrawing reach the views, and asks the server
// what a view asks, by the ticket of the answer.

import { button, h } from "./lib/dom.js";
import { savedModel } from "./lib/page.js";

const TABS = [
  { title: "Words", view: "token_view", note: "" },
  { title: "Where it looked", view: "attention_view", note: "Pick a word: heat shows where the model looked to say it." },
  { title: "Occlusion", view: "attention_view", press: "occlusion", note: "Each place is hidden in turn, with its neighbours: how much less probable does the picked word get? It takes a while." },
  { title: "Lens", view: "attention_view", press: "lens", note: "Point at a patch of the picture: the word nearest to it, layer by layer." },
  { title: "Drafts", view: "draft_view", note: "" },
];

/** Runs what it is given one after the other, in the order it came. */
export function inTurn() {
  let last = Promise.resolve();
  return (run) => (last = last.then(run, run));
}

/** The word that is picked in all views of an answer. Those behind hear of it when they come to the front. */
export function sharedPick() {
  let picked = -1, ahead = null;
  return {
    get: () => picked,
    set(k) {
      picked = k;
      ahead?.set("selected", k);
    },
    show(model) {
      ahead = model;
      model.set("selected", picked);
    },
  };
}

/**
 * A model for a view that starts from `state` and asks the server. All models of a page share `turn`: the server gives a
 * visitor few places in its line, so one question of the page is on its way at a time.
 */
export function remoteModel(state, address, pick, turn) {
  const model = savedModel({ ...state, selected: pick.get() }, {});
  const heard = new Set();
  const { on, off } = model;
  model.on = (event, listener) => (event === "msg:custom" ? heard.add(listener) : on(event, listener));
  model.off = (event, listener) => (event === "msg:custom" ? heard.delete(listener) : off(event, listener));
  const tell = (message) => [...heard].forEach((listener) => listener(message));
  const fetched = async (question) => {
    try {
      const answer = await fetch(`${address}/ask`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question) });
      return await answer.json();
    } catch (error) {
      return { error: `The server did not answer (${error.message}). Is it still there?` };
    }
  };
  let waiting = 0;
  model.send = async ({ id, ...question }) => {
    if (!question.ask) {
      if (waiting) tell({ pong: question.ping }); // a question is in turn or with the server, which answers or refuses by itself
      return;
    }
    waiting += 1;
    const reply = await turn(() => (heard.size ? fetched(question) : {})); // the view may have gone meanwhile
    waiting -= 1;
    tell({ reply: id, value: reply.value, error: reply.error ?? (reply.value === undefined ? "There is no answer." : "") });
  };
  model.on("change:selected", () => pick.set(model.get("selected")));
  return model;
}

/** Tabs by the pattern of the WAI: one stop of the Tab key, arrows move, only the open panel is there. `open` hears of each. */
function tabs(shown, open) {
  const list = h("div", { class: "demo-tabs", role: "tablist", "aria-label": "Views of the answer" });
  const panels = h("div", {});
  const made = shown.map((tab, k) => {
    const panel = h("div", { role: "tabpanel", id: `demo-panel-${k}`, "aria-label": tab.title, hidden: true });
    const node = button(tab.title, () => pick(k), { role: "tab", "aria-controls": `demo-panel-${k}`, "aria-selected": "false", tabindex: "-1" });
    list.append(node);
    panels.append(panel);
    return { node, panel, tab };
  });
  const pick = (k) => {
    made.forEach((one, j) => {
      one.node.setAttribute("aria-selected", String(j === k));
      one.node.tabIndex = j === k ? 0 : -1;
      one.panel.hidden = j !== k;
    });
    open(made[k].tab, made[k].panel);
  };
  list.addEventListener("keydown", (event) => {
    const now = made.findIndex((one) => one.node.getAttribute("aria-selected") === "true");
    const to = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: made.length - 1 }[event.key];
    if (to === undefined) return;
    const next = (to + made.length) % made.length;
    pick(next);
    made[next].node.focus();
    event.preventDefault();
  });
  pick(0);
  return [list, panels];
}

/** Draw into `element` whatever the server says in `props.value`; `views` are the views' modules by name. */
function start({ element, props, watch, views, style }) {
  const root = element.shadowRoot ?? element.attachShadow({ mode: "open" });
  const status = h("p", { class: "demo-status", role: "status" });
  const box = h("div", { class: "demo-box" });
  root.replaceChildren(h("style", {}, style), status, box);
  // Gradio's theme, where a style in here can see it: :host-context() is known to Chromium only
  const dress = () => element.toggleAttribute("data-dark", Boolean(element.closest(".dark")));
  new MutationObserver(dress).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  dress();
  const base = new URL("workbench/", (window.gradio_config?.root ?? `${location.origin}${location.pathname}`).replace(/\/?$/, "/"));
  const turn = inTurn();
  let live = null, told = 0, run = "", clean = [];

  const clear = () => {
    clean.forEach((end) => end());
    clean = [];
    live = null;
    told = 0;
    box.replaceChildren();
  };
  const stream = (rows) => {
    if (!live) {
      clear();
      live = savedModel({ data: {}, selected: -1, measure: "probability" }, {});
      clean.push(views.token_view.render({ model: live, el: box }));
    }
    live.set("tail", { from: told, rows: rows.slice(told) });
    told = rows.length;
  };
  const finish = async (ticket, id) => {
    const address = new URL(ticket, base).href;
    const answer = await fetch(`${address}/views`);
    const saved = await answer.json();
    if (run !== id) return;
    if (!answer.ok) throw new Error(saved.error);
    clear();
    const models = new Map(); // of the tabs that were opened
    const pick = sharedPick();
    const drafted = saved.some(({ view, state }) => view === "draft_view" && state.data.rounds?.count);
    const shown = TABS.filter((tab) => saved.some(({ view }) => view === tab.view) && (tab.view !== "draft_view" || drafted));
    const open = (tab, panel) => {
      if (models.has(tab)) return pick.show(models.get(tab));
      const { state } = saved.find(({ view }) => view === tab.view);
      const model = remoteModel(state, address, pick, turn);
      models.set(tab, model);
      pick.show(model);
      const reason = state.data.reasons?.[{ occlusion: "occlude", lens: "lens" }[tab.press] ?? "attend"];
      const note = tab.view === "attention_view" ? reason || tab.note : tab.note;
      if (note) panel.append(h("p", { class: "demo-note" }, note));
      const place = h("div", {});
      panel.append(place);
      clean.push(views[tab.view].render({ model, el: place }));
      const press = tab.press && [...place.querySelectorAll("button")].find((node) => node.textContent === tab.press);
      press?.click();
    };
    box.append(...tabs(shown, open),
      h("p", { class: "demo-files" }, h("a", { href: `${address}/answer.trace`, download: "answer.trace" }, "Download the trace"), " ",
        h("a", { href: `${address}/answer.html`, download: "answer.html" }, "Download the page (works offline)"),
        h("span", { class: "demo-note" }, " Both open without this server. They hold your files.")));
  };
  const heard = () => {
    const value = props.value;
    if (!value || typeof value !== "object") return;
    if (value.run !== run) {
      run = value.run;
      told = 0;
      live = null;
    }
    status.textContent = value.message ?? "";
    status.classList.toggle("bad", value.state === "failed");
    if (value.state === "waiting") clear();
    if (value.rows?.length > told && value.state !== "failed") stream(value.rows);
    if (value.state === "done" && value.ticket) {
      finish(value.ticket, run).catch((error) => {
        status.textContent = error.message;
        status.classList.add("bad");
      });
    }
  };
  watch("value", heard);
  heard();
}

export default start;
