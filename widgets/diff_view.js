// Two answers side by side: how far apart the models are at each place, and where the answers part.

import { numbers } from "./lib/arrays.js";
import { bars } from "./lib/bars.js";
import { STEPS } from "./lib/colour.js";
import { h } from "./lib/dom.js";
import { count, percent, safe, visible } from "./lib/format.js";
import { emptyNote, listen, view } from "./lib/view.js";
import { words } from "./lib/words.js";

const step = (kl) => Math.max(0, Math.min(9, 9 - Math.floor(4.5 * kl)));

function build({ model, body, data, signal }) {
  if (!data.sides) {
    body.append(emptyNote(model, "There are no two answers to compare yet."));
    return;
  }
  const [kl, agree, logprobA, logprobB] = ["kl", "agree", "logprob_a", "logprob_b"].map((name) => numbers(data[name]));
  const n = kl.length, sign = data.exact ? "KL" : "KL ≥";
  const mean = kl.reduce((a, b) => a + b, 0) / Math.max(1, n);
  const where = data.divergence === null ? "The same answer."
    : data.divergence === n ? `One answer ends at token ${n}, the other goes on.` : `The answers part at token ${data.divergence}.`;
  const told = `${where} ${sign} ${mean.toFixed(4)} nats a token over ${count(n, "place")}; the same first choice at ${agree.reduce((a, b) => a + b, 0)} of them.` +
    (data.same_prompt ? "" : " The prompts differ.");
  const both = h("div", { class: "wb-both" });
  const place = h("p", { class: "wb-note wb-num", role: "status" });

  const pick = (k) => {
    model.set("selected", k);
    model.save_changes();
  };
  let pinned = -1, strips = [];
  const show = (k) => {
    ticks.forEach((tick, j) => tick.classList.toggle("on", j === k));
    if (!(k >= 0 && k < n)) {
      place.textContent = k >= n ? "Behind the place where they part, the two have read different words: nothing to compare." :
        "Point at a word: what both would have said there.";
      both.replaceChildren();
      return;
    }
    place.textContent = `Token ${k}: ${sign} ${kl[k].toFixed(4)} nats. ${visible(data.sides[0].pieces[k])} has ${percent(logprobA[k])} on the left and ` +
      `${Number.isNaN(logprobB[k]) ? "less than what was stored" : percent(logprobB[k])} on the right.`;
    both.replaceChildren(...data.sides.map((side) => bars(side.name, side.top[k].map(([piece, lp]) => ({ name: visible(piece), value: Math.exp(lp), text: percent(lp) })))));
  };
  strips = data.sides.map((side, s) => {
    const dress = (span, k) => {
      span.classList.add(k < n ? `p${step(kl[k])}` : "after");
      if (k === data.divergence) span.classList.add("parts");
      span.setAttribute("aria-label", `${visible(side.pieces[k])}${k < n ? `, ${sign} ${kl[k].toFixed(3)}` : ""}${k === data.divergence ? ", here they part" : ""}`);
    };
    return words({
      groups: [{ label: `${s ? "Right" : "Left"} answer`, from: 0, to: side.pieces.length }], piece: (k) => side.pieces[k],
      special: (k) => side.special.includes(k), signal, point: (k) => show(k < 0 ? pinned : k),
      pick, dress,
    });
  });
  const most = Math.max(0.05, ...kl);
  const ticks = Array.from(kl, (v, k) => {
    const tick = h("i", { class: agree[k] ? "" : "no", style: { height: `${Math.max(2, (100 * v) / most)}%` }, title: `token ${k}: ${v.toFixed(4)} nats${agree[k] ? "" : ", another first choice"}` });
    tick.addEventListener("pointerenter", () => show(k), { signal });
    tick.addEventListener("click", () => pick(k), { signal });
    return tick;
  });
  const chart = h("div", { class: "wb-kl", role: "img", "aria-label": `${sign} by token, at most ${most.toFixed(3)} nats` }, ticks);
  chart.addEventListener("pointerleave", () => show(pinned), { signal });
  body.append(
    h("p", {}, told),
    h("div", { class: "wb-bar" }, h("span", { class: "wb-scale", role: "img", "aria-label": "Colour: KL from 2 nats or more to 0" }, "2 nats or more",
      Array.from({ length: STEPS }, (_, k) => h("i", { class: `p${k}` })), "0 nats"),
    data.divergence === null ? null : h("span", {}, h("span", { class: "wb-t wb-sample parts" }, "word"), " where they part"),
    h("span", {}, h("span", { class: "wb-t wb-sample after" }, "word"), " not comparable")),
    h("div", { class: "wb-sides" }, data.sides.map((side, s) => h("div", { class: "wb-side" },
      h("div", { class: "wb-head" }, safe(side.name)), h("p", { class: "wb-note" }, safe(side.how)), strips[s].element))),
    chart, h("p", { class: "wb-note" }, `${sign} by token; striped: another first choice.`), place, both);
  const choose = () => {
    pinned = model.get("selected");
    strips.forEach((strip) => strip.select(pinned));
    show(pinned);
  };
  choose();
  listen(model, "change:selected", choose, signal);
}

export default view("Two answers compared", build);
