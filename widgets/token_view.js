// The answer as words, coloured by how sure the model was; what it nearly said; the prompt, folded.

import { numbers } from "./lib/arrays.js";
import { MEASURES, STEPS } from "./lib/colour.js";
import { button, choice, h } from "./lib/dom.js";
import { count, percent, safe, seconds, visible } from "./lib/format.js";
import { emptyNote, eachFrame, listen, view } from "./lib/view.js";
import { SOURCES, words } from "./lib/words.js";

const SHOWN = 8; // alternatives before "more"
const CONTROL = /^(?:<\|[^<>|\s]+\|?>|<[^<>|\s]+\|>|<(?:bos|eos|pad|unk|mask)>)$/; // of words that come; a trace says which
const LONG = 3000; // of the prompt's characters at first

const MARKS = { 1: "draft, accepted", 2: "draft, corrected", 3: "bonus after drafts", 4: "forced" };

const read = (packed, names) => Object.fromEntries(names.map((name) => [name, numbers(packed[name])]));

/** The columns of the tokens, and how many alternatives each has. */
function columns(tokens) {
  const names = ["id", "logprob", "filtered", "entropy", "rank", "source", "round", "time"];
  return { piece: tokens.piece, K: tokens.kept, ...read(tokens, names) };
}

/** A function that gives a token's alternatives, likeliest first; they are unpacked once one is asked for. */
function alternativesOf(tokens, K) {
  let top = null;
  return (k) => {
    top ??= { names: tokens.nearly.names, ...read(tokens.nearly, ["which", "logprob", "filtered"]) };
    return Array.from({ length: K }, (_, j) => {
      const at = k * K + j, [id, piece] = top.names[top.which[at]];
      return { id, piece, logprob: top.logprob[at], filtered: top.filtered[at], place: j };
    });
  };
}

function legend(measure) {
  const { low, high } = MEASURES[measure];
  const steps = Array.from({ length: STEPS }, (_, k) => h("i", { class: `p${k}` }));
  return [h("span", { class: "wb-scale", role: "img", "aria-label": `${MEASURES[measure].label}: ${low} to ${high}` }, low, steps, high)];
}

function promptOf(prompt) {
  const total = prompt.segments.reduce((n, s) => n + s.length, 0);
  const bar = prompt.segments.map((s) => {
    const name = s.media === null ? s.kind : `${s.kind} ${s.media}`;
    return h("span", { class: `k-${s.kind}`, style: { flex: `${s.length} 0 0` }, title: `${name}: tokens ${s.start} to ${s.start + s.length - 1}` },
      s.length * 20 > total ? name : "");
  });
  const text = h("div", { class: "wb-prompt", tabindex: "0", role: "region", "aria-label": "The prompt's text" });
  let room = LONG;
  for (const s of prompt.segments) {
    if (room <= 0) break;
    if (s.pieces === null) text.append(h("span", { class: `wb-chip k-${s.kind}` }, `${s.kind} ${s.media} × ${s.length}`));
    else if (s.kind === "control") text.append(...s.pieces.map((piece) => h("span", { class: "wb-chip" }, visible(piece))));
    else {
      const said = safe(s.pieces.join(""));
      text.append(said.slice(0, room));
      room -= said.length;
    }
  }
  if (room <= 0 || prompt.cut) text.append(h("span", { class: "wb-note" }, " … and more, not shown here."));
  return h("details", {}, h("summary", {}, `Prompt: ${count(total, "token")}`),
    h("div", { class: "wb-strip", role: "img", "aria-label": prompt.segments.map((s) => `${s.kind} ${s.length}`).join(", ") }, bar), text);
}

function panel(t, nearly, { go, reasons, back, greedy }) {
  const element = h("div", { class: "wb-panel", "aria-live": "polite" });
  let all = false, last = null;

  const alternatives = (k) => {
    const rows = nearly(k);
    const shown = all ? rows : rows.slice(0, SHOWN);
    if (!shown.some((row) => row.id === t.id[k])) {
      shown.push({ id: t.id[k], piece: t.piece[k], logprob: t.logprob[k], filtered: t.filtered[k], place: t.rank[k] });
    }
    return shown;
  };
  const row = (k, { id, piece, logprob, filtered, place }) => {
    const said = id === t.id[k], out = filtered && !greedy;
    const reason = said ? "This is what it said." : reasons.branch;
    const line = button(
      [h("code", {}, (said ? "▸" : "") + visible(piece)), h("i", { style: { "--w": `${100 * Math.exp(Math.min(logprob, 0))}%` } }), h("em", {}, percent(logprob)),
        h("span", { class: "wb-sr" }, `, choice ${place + 1}${out ? ", filtered out" : ""}${said ? ", said" : ""}`)],
      () => go({ ask: "branch", at: k, token: id }),
      {
        reason,
        title: `Say ${visible(piece)} here instead, and go on from there`,
      },
    );
    return h("li", { class: [said ? "on" : "", out ? "off" : ""].join(" ") }, line);
  };
  const show = (k, pinned) => {
    last = [k, pinned];
    if (!(k >= 0 && k < t.piece.length)) {
      element.replaceChildren(
        h("h3", {}, "What it nearly said", back ? h("span", { class: "wb-push" }, back()) : null),
        h("p", { class: "wb-note" }, t.piece.length ? "Point at a word, or reach the words with Tab and the arrow keys. Click, or Enter, keeps it."
          : "No token was generated."));
      return;
    }
    const rows = alternatives(k);
    const more = t.K > SHOWN && button(all ? "fewer" : `all ${t.K}`, () => {
      all = !all;
      show(...last);
      element.querySelector(".wb-push button")?.focus({ preventScroll: true }); // the button that had it is gone
    });
    const source = SOURCES[t.source[k]] + (t.round[k] >= 0 ? `, round ${t.round[k]}` : "");
    const note = !greedy && rows.some((r) => r.filtered) ? "Crossed out: could not be drawn with these settings. " : "";
    const what = reasons.branch ? reasons.branch : "A click on another word says that instead and goes on from there.";
    element.replaceChildren(
      h("h3", {}, `Token ${k}: ${visible(t.piece[k])}`,
        h("small", { class: "wb-num" }, `${percent(t.logprob[k])} · rank ${t.rank[k]} · entropy ${t.entropy[k].toFixed(2)} nats · ${source} · ${seconds(t.time[k])}`),
        h("span", { class: "wb-push" }, pinned ? h("span", { class: "wb-chip" }, "picked") : "", " ", more || "", " ", back ? back() : "")),
      h("ul", { class: "wb-alternatives" }, rows.map((r) => row(k, r))),
      h("p", { class: "wb-note" }, note, what));
  };
  return { element, show };
}

function summary(items) {
  return h("div", { class: "wb-sum" }, items.map(([strong, rest]) => h("span", {}, h("b", {}, safe(strong)), " ", safe(rest))));
}

function build({ model, body, ask, complain, data, signal }) {
  if (!data.tokens) {
    body.append(emptyNote(model, "Nothing has been asked yet."));
    live({ model, body, signal });
    return;
  }
  const t = columns(data.tokens);
  const special = (k) => data.special.includes(k);
  let measure = model.get("measure"), pinned = -1;
  const go = async (question) => {
    if (about.element.hasAttribute("aria-busy")) return; // the second click of two: the first one is on its way
    about.element.setAttribute("aria-busy", "true");
    try {
      complain("");
      await ask({ ...question, serial: data.serial });
    } catch (error) {
      complain(error);
    } finally {
      about.element.removeAttribute("aria-busy");
    }
  };
  const back = data.parents ? () => button("↩ back", () => go({ ask: "back" }), { title: "To the answer this one branched from" }) : null;
  const about = panel(t, alternativesOf(data.tokens, t.K), { go, reasons: data.reasons, back, greedy: data.greedy });

  let pointed = -1;
  const repaint = eachFrame(() => about.show(pointed >= 0 ? pointed : pinned, pointed < 0 && pinned >= 0));
  const dress = (span, k) => {
    const row = { logprob: t.logprob[k], entropy: t.entropy[k], rank: t.rank[k] };
    span.className = `wb-t p${MEASURES[measure].step(row)}`;
    if (t.source[k]) span.dataset.source = t.source[k];
    span.setAttribute("aria-label", `${visible(t.piece[k])}, ${percent(t.logprob[k])}${t.source[k] ? ", " + SOURCES[t.source[k]] : ""}`);
  };
  const strip = words({
    groups: data.groups, piece: (k) => t.piece[k], special, signal, dress,
    point: (k) => { if (k !== pointed) { pointed = k; repaint(); } },
    pick: (k) => { model.set("selected", k); model.save_changes(); },
  });
  const scale = h("span", {}, legend(measure));
  const colour = () => {
    strip.spans.forEach(dress);
    scale.replaceChildren(...legend(measure));
  };
  const choose = () => {
    pinned = model.get("selected");
    if (pinned >= t.piece.length) pinned = -1;
    strip.select(pinned);
    about.show(pinned, pinned >= 0);
  };
  const marks = [...new Set(t.source)].filter((s) => MARKS[s]).sort().map((s) =>
    h("span", {}, h("span", { class: "wb-t wb-sample", "data-source": s }, "word"), " ", MARKS[s]));
  body.append(
    h("div", { class: "wb-bar" },
      choice("Colour", Object.entries(MEASURES).map(([key, m]) => [key, m.label]), measure, (value) => {
        measure = value;
        model.set("measure", value);
        model.save_changes();
        colour();
      }), scale, marks),
    h("div", { class: "wb-scroll" }, strip.element),
    about.element, promptOf(data.prompt), summary(data.summary));
  choose();
  listen(model, "change:selected", choose, signal);
  live({ model, body, signal });
}

/** Words as they come in, in the place of whatever is shown, until the trace itself arrives. */
function live({ model, body, signal }) {
  let strip = null;
  const heard = () => {
    const tail = model.get("tail");
    if (!tail || !tail.rows) return;
    if (tail.ended) {
      if (strip) body.querySelector("[role=status]").textContent = tail.ended;
      return;
    }
    if (tail.from === 0 || !strip) {
      const held = body.contains(document.activeElement);
      strip = words({ groups: [{ label: "Answer", from: 0, to: 0 }], piece: () => "", special: () => false, signal, point: () => {}, pick: () => {} });
      const said = h("span", { role: "status", tabindex: "-1" }, "answering …");
      body.replaceChildren(h("div", { class: "wb-bar" }, legend("probability"), said), h("div", { class: "wb-scroll" }, strip.element));
      if (held) said.focus({ preventScroll: true }); // a branch is asked for from here
    }
    for (const [piece, logprob, source] of tail.rows.slice(Math.max(0, strip.spans.length - tail.from))) {
      const span = strip.add(piece, CONTROL.test(piece));
      span.className = `wb-t p${MEASURES.probability.step({ logprob })}`;
      if (source) span.dataset.source = source;
    }
    const box = strip.element.parentElement;
    if (box) box.scrollTop = box.scrollHeight;
  };
  listen(model, "change:tail", heard, signal);
}

export default view("Answer, word by word", build);
