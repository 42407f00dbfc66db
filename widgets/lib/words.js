// The answer as words one can point at: mouse, or Tab and then the arrow keys (one stop of the Tab key for each list).

import { h } from "./dom.js";
import { HIDDEN, safe, visible } from "./format.js";

const FIRST = 300; // words made for the first paint: about as many as one sees at once; the others follow it

export const SOURCES = ["plain", "accepted", "corrected", "bonus", "forced"];

/** A piece as it stands among others; what has no width of its own is written out, so that it can be pointed at. */
export function shown(piece, special) {
  if (special) return [visible(piece)];
  if (HIDDEN.test(piece)) return [h("span", { class: "wb-soft" }, visible(piece))];
  if (!piece) return [h("span", { class: "wb-soft" }, "∅")];
  if (!piece.replaceAll("\n", "")) return [h("span", { class: "wb-soft" }, "↵".repeat(piece.length)), piece];
  return [safe(piece)];
}

/**
 * Lists of words. Each group is { label, from, to, folded, kind }; all share one selection. `dress(span, k)` is called
 * for every word once it is made.
 *
 * Returns { element, spans, add, select, focus }: `add(pieces, special)` appends to the last group; `spans` has the words
 * that are made so far.
 */
export function words({ groups, piece, special, point, pick, signal, dress = () => {} }) {
  const spans = [];
  const lists = [];
  const element = h("div", { class: "wb-groups" });
  let selected = -1;

  const blank = h("span", { class: "wb-t", role: "option", tabindex: "-1", "aria-selected": "false" });
  const make = (k, text, isSpecial) => {
    const span = blank.cloneNode(); // quicker than making each anew
    span.append(...shown(text, isSpecial));
    if (isSpecial) span.dataset.special = "";
    span.dataset.k = k;
    spans[k] = span;
    return span;
  };
  const list = (group) => {
    const box = h("div", { class: "wb-words", role: "listbox", dir: "auto", "aria-label": group.label, "aria-orientation": "horizontal" });
    lists.push(box);
    if (!group.folded) element.append(box);
    else element.append(h("details", { class: "wb-fold" }, h("summary", {}, group.label), box));
    return box;
  };
  const append = (box, span) => {
    box.append(span);
    if (span === box.firstElementChild) span.tabIndex = 0;
  };
  let later = [];
  const start = (box, from, to) => {
    for (let k = from; k < to; k++) {
      append(box, make(k, piece(k), special(k)));
      dress(spans[k], k);
    }
  };
  const settle = () => {
    const rest = later;
    later = [];
    rest.forEach(([box, from, to]) => start(box, from, to));
  };
  let room = FIRST;
  for (const group of groups) {
    const box = list(group), first = group.folded ? 0 : Math.min(room, group.to - group.from);
    room -= first;
    start(box, group.from, group.from + first);
    if (group.from + first < group.to) later.push([box, group.from + first, group.to]);
  }
  if (later.length) requestAnimationFrame(() => setTimeout(settle));

  const at = (event) => {
    const span = event.target.closest?.("[data-k]");
    return span && element.contains(span) ? Number(span.dataset.k) : -1;
  };
  const rove = (k) => {
    const box = spans[k].closest(".wb-words");
    box.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
    spans[k].tabIndex = 0;
  };
  const select = (k) => {
    spans[selected]?.setAttribute("aria-selected", "false");
    if (k >= 0 && !spans[k]) settle();
    selected = k >= 0 && k < spans.length ? k : -1;
    if (selected < 0) return;
    spans[selected].setAttribute("aria-selected", "true");
    rove(selected);
  };
  const focus = (k) => {
    settle();
    if (!spans[k]) return;
    const fold = spans[k].closest("details");
    if (fold) fold.open = true;
    rove(k);
    spans[k].focus();
  };
  const line = (k, step) => {
    // the nearest word of the next line up or down
    const here = spans[k].getBoundingClientRect();
    let best = k, least = Infinity, seen = null;
    for (let j = k + step; spans[j]; j += step) {
      const box = spans[j].getBoundingClientRect();
      if (Math.abs(box.top - here.top) < here.height / 2) continue;
      seen ??= box.top;
      if (Math.abs(box.top - seen) > here.height / 2) break;
      const far = Math.abs(box.left - here.left);
      if (far < least) [best, least] = [j, far];
    }
    return best;
  };

  const options = { signal };
  element.addEventListener("pointerover", (event) => at(event) >= 0 && point(at(event)), options);
  element.addEventListener("pointerleave", () => point(-1), options);
  element.addEventListener("focusin", (event) => at(event) >= 0 && point(at(event)), options);
  element.addEventListener("click", (event) => {
    const k = at(event);
    if (k < 0) return;
    rove(k);
    pick(k);
  }, options);
  element.addEventListener("keydown", (event) => {
    const k = at(event);
    if (k < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const forth = getComputedStyle(spans[k].parentElement).direction === "rtl" ? -1 : 1; // as one sees it
    const moves = {
      ArrowRight: () => k + forth, ArrowLeft: () => k - forth, ArrowDown: () => line(k, 1), ArrowUp: () => line(k, -1),
      Home: () => 0, End: () => spans.length - 1,
    };
    if (moves[event.key]) focus(Math.max(0, Math.min(spans.length - 1, moves[event.key]())));
    else if (event.key === "Enter" || event.key === " ") pick(k);
    else if (event.key === "Escape") pick(-1);
    else return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would take the arrows for its own
  }, options);

  const add = (text, isSpecial) => {
    settle();
    const box = lists.at(-1) ?? list({ label: "Answer" });
    const span = make(spans.length, text, isSpecial);
    append(box, span);
    return span;
  };
  return { element, spans, add, select, focus };
}
