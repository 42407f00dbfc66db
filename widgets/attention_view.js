// Pick a word of the answer; see where the model looked: on the pictures, in the sounds, at the words.

import { binary, numbers } from "./lib/arrays.js";
import { bars } from "./lib/bars.js";
import { MEASURES } from "./lib/colour.js";
import { button, choice, h } from "./lib/dom.js";
import { visible } from "./lib/format.js";
import { heatCanvas } from "./lib/heat.js";
import { scene, share, soundOf, wordsUnderHeat } from "./lib/sights.js";
import { player } from "./lib/sound.js";
import { emptyNote, listen, view } from "./lib/view.js";
import { words } from "./lib/words.js";

const QUICK = 0.25; // seconds within which pointing at a word is enough to ask

const nats = (v) => `${v.toFixed(2)} nats`;

function layerName(kind, index, window) {
  return `${index} · ${kind.startsWith("sliding") ? `sliding, ${window ?? "?"} tokens` : "full"}`;
}

/** Runs one at a time; of what is asked for meanwhile only the newest. `run` is told whether nothing newer waits. */
function newest(run, { body, signal }) {
  let waiting = null, busy = false;
  return async (k) => {
    waiting = k;
    if (busy) return;
    busy = true;
    body.dataset.running = Number(body.dataset.running ?? 0) + 1;
    body.setAttribute("aria-busy", "true");
    while (waiting !== null && !signal.aborted) {
      const now = waiting;
      waiting = null;
      await run(now, () => waiting === null);
    }
    busy = false;
    body.dataset.running -= 1;
    if (body.dataset.running === "0") body.removeAttribute("aria-busy");
  };
}

function build({ model, body, ask, complain: say, data, signal }) {
  if (!data.pieces) {
    body.append(emptyNote(model, "Nothing has been asked yet."));
    return;
  }
  const reason = data.reasons.attend;
  const state = { layer: null, head: null, reduce: "mean", sinks: true, hide: false, strength: 0.8 };
  const known = new Map(); // answers by question, so that going back to a word costs nothing
  const costs = new Map(); // of hiding, by word
  const ranks = new Map(); // how far the two agree, by question
  const lenses = new Map();
  const failed = new Set(); // pictures whose lens is not asked for at every move of the mouse again
  let shown = null, how = null, token = -1, wanted = "", hoverAsks = false, hiding = -1, pointing = 0;
  const complain = (error) => signal.aborted || say(error); // what was asked of an answer that is gone

  const sounds = player(signal, { at: (seconds) => follow?.(seconds) });
  let follow = null;
  const play = async (sound, from, at) => {
    try {
      const { wav } = await ask({ ask: "sound", media: sound.media });
      sounds.stop(); // whose end lets go of `follow`
      follow = at;
      await sounds.play(binary(wav), { from, ended: () => { at(null); follow = null; } });
    } catch (error) {
      complain(error);
    }
  };
  const looked = { label: "Heat", unit: share, of: () => shown };
  const hidden = { label: "What hiding costs", unit: nats, of: () => costs.get(token) };
  const make = (side) => {
    side.images = data.pictures.map((picture, k) => scene(picture, { label: side.label, onpoint: (patch) => point(side, k, patch) }));
    side.sounds = data.sounds.map((sound) => soundOf(sound, { label: side.label, ask, complain, play, stop: sounds.stop }));
  };
  make(looked);
  const sights = h("div", { class: "wb-look" });
  const figures = (kind) => looked[kind].map((one) => one.element);
  const around = wordsUnderHeat(data.context);
  const shares = h("div", {});
  const status = h("p", { class: "wb-note", role: "status" });
  const headsBox = h("div", { class: "wb-heads" });

  // --- painting what was answered
  const named = (what) => h("b", {}, `${what} of ${visible(data.pieces[token] ?? "")}`);
  const hiddenOf = (map, rank) => [
    named("Occlusion"), ". ",
    ...(map.faint ? [`Hiding ${map.block} costs the word less than 0.01 nats, wherever it is.`]
      : map.most > 0 ? ["At most ", h("b", {}, nats(map.most)), `, by hiding ${map.block}. ${rank === null ? "" : `Rank correlation with the attention: ${rank.toFixed(2)}.`}`]
        : ["Hiding costs nothing, wherever it is."]),
  ];
  const readOf = (map) => {
    if (!(map.most > 0)) return "Nothing. ";
    if (how.reduce === "max") return ["At most ", h("b", {}, share(map.most)), " in one place, of any layer and head. "]; // these have no sum
    return [h("b", {}, share(map.sum)), ` in all, at most ${share(map.most)} in one place. `];
  };
  const layersOf = (map) => (map.layers.length ? `Layer${map.layers.length > 1 ? "s" : ""} ${map.layers.join(", ")}.` : "");
  const paintHidden = () => {
    const cost = costs.get(token), rank = ranks.get(JSON.stringify(how));
    sights.classList.toggle("wb-pair", state.hide);
    if (state.hide && !hidden.images) { // made once it is wanted: most never look at it
      make(hidden);
      for (const kind of ["images", "sounds"]) looked[kind].forEach((one, k) => one.element.after(hidden[kind][k].element));
    }
    if (!hidden.images) return;
    for (const kind of ["images", "sounds"]) {
      hidden[kind].forEach((one, k) => {
        one.element.hidden = !state.hide;
        if (cost) one.paint(numbers(cost[kind][k].cells), state.strength);
        else one.blank();
        one.caption.replaceChildren(...(cost ? hiddenOf(cost[kind][k], rank?.[kind][k].rank ?? null)
          : [hiding === token ? "Each place is hidden in turn…" : "Pick this word to hide each place in turn."]));
      });
    }
  };
  const paint = () => {
    if (!shown) return;
    for (const kind of ["images", "sounds"]) {
      shown[kind].forEach((map, k) => {
        looked[kind][k].paint(numbers(map.cells), state.strength);
        looked[kind][k].caption.replaceChildren(...[state.hide ? [named("Attention"), ". "] : "", readOf(map), layersOf(map)].flat());
      });
    }
    paintHidden();
    around.paint(shown.words);
    const rows = new Map();
    data.segments.forEach((name, k) => rows.set(name, (rows.get(name) ?? 0) + (shown.shares[k] ?? 0)));
    shares.replaceChildren(bars(`Attention, by part of the prompt (${how.layer === null ? "all layers" : `layer ${how.layer}`})`, [...rows].filter(([, v]) => v >= 0.0005).sort((a, b) => b[1] - a[1]).map(([name, v]) => ({ name, value: v, text: share(v) }))));
    const sinks = shown.sinks.slice(0, 4).map(([, mass, piece, why]) => `${visible(piece)} (${why}, ${share(mass)})`);
    status.textContent = `Token ${token}, ${visible(data.pieces[token])}. ` +
      `${sinks.length ? `Sinks: ${sinks.join("; ")}. ` : ""}Replay differs by at most ${shown.gap.toPrecision(1)} nats.`;
    if (heads.childElementCount <= 1) {
      heads.append(...shown.heads.map((n) => h("option", { value: n }, `head ${n}`)));
    }
  };

  // --- asking: the newest question only
  const question = (k) => ({ ask: "attend", token: k, layer: state.layer, head: state.head, reduce: state.reduce, sinks: state.sinks });
  const ofEach = async (asked) => {
    const each = (list, kind) => Promise.all(list.map(({ media }) => ask({ ...asked, kind, media })));
    return { images: await each(data.pictures, "image"), sounds: await each(data.sounds, "audio") };
  };
  const keep = async (store, key, get) => {
    if (!store.has(key)) store.set(key, await get());
    return store.get(key);
  };
  const show = (asked, answer) => {
    [shown, how, token] = [answer, asked, asked.token];
    pointing += 1;
    paint();
  };
  const askAbout = newest(async (asked) => {
    const key = JSON.stringify(asked);
    try {
      const answer = await keep(known, key, () => ask(asked));
      hoverAsks = answer.seconds < QUICK;
      if (key !== wanted) return; // something else was chosen meanwhile, and may be shown already
      complain("");
      show(asked, answer);
    } catch (error) {
      if (key === wanted) complain(error);
    }
  }, { body, signal });
  const hideFor = newest(async (k, last) => {
    const asked = question(k);
    try {
      hiding = k;
      paintHidden();
      await keep(costs, k, () => ofEach({ ask: "occlude", token: k }));
      if (last() && !reason) await keep(ranks, JSON.stringify(asked), () => ofEach({ ...asked, ask: "agree" }));
      complain("");
    } catch (error) {
      complain(error);
    }
    hiding = -1;
    paintHidden();
  }, { body, signal });
  const look = (k) => {
    if (k < 0) return;
    if (reason) { // what hiding a place costs may be known all the same
      token = k;
      return paintHidden();
    }
    const asked = question(k);
    wanted = JSON.stringify(asked);
    if (!known.has(wanted)) return askAbout(asked);
    show(asked, known.get(wanted));
  };
  const again = () => {
    look(picked());
    if (state.hide && picked() >= 0) hideFor(picked());
  };
  const picked = () => {
    const k = model.get("selected");
    return k >= 0 && k < data.pieces.length ? k : Math.min(data.first, data.pieces.length - 1);
  };

  // --- words and controls
  const logprob = numbers(data.logprob);
  const strip = words({
    groups: [{ label: "Answer", from: 0, to: data.pieces.length }], piece: (k) => data.pieces[k], special: (k) => data.special.includes(k), signal,
    dress: (span, k) => span.classList.add(`p${MEASURES.probability.step({ logprob: logprob[k] })}`),
    point: (k) => {
      if (k < 0) look(picked());
      else if (hoverAsks || known.has(JSON.stringify(question(k)))) look(k);
    },
    pick: (k) => {
      if (k === model.get("selected")) return again(); // what it asked may have been ended
      model.set("selected", k);
      model.save_changes();
    },
  });
  const fixed = data.saved ? "This page holds the mean over heads and layers only." : reason;
  const pick = (label, options, set) => {
    const field = choice(label, options, "", (value) => { set(value === "" ? null : Number(value)); again(); openHeads(); });
    const select = field.querySelector("select");
    if (fixed) {
      select.disabled = true;
      field.title = fixed;
    }
    return [field, select];
  };
  const [layerField, layers] = pick("Layer", [["", "all that see it"], ...data.layers.map((kind, k) => [String(k), layerName(kind, k, data.window)])], (v) => { state.layer = v; });
  const [headField, heads] = pick("Head", [["", "all"]], (v) => { state.head = v; });
  const toggle = (label, name, title, why) => {
    const node = button(label, () => {
      name();
      again();
    }, { reason: why, title, pressed: false });
    return node;
  };
  const most = toggle("max", () => { state.reduce = state.reduce === "max" ? "mean" : "max"; most.setAttribute("aria-pressed", String(state.reduce === "max")); }, "The largest over layers and heads instead of the mean", fixed);
  const noSinks = toggle("without sinks", () => { state.sinks = !state.sinks; noSinks.setAttribute("aria-pressed", String(!state.sinks)); }, "Leave out positions that draw attention whatever is asked", reason);
  const hide = toggle("occlusion", () => {
    state.hide = !state.hide;
    hide.setAttribute("aria-pressed", String(state.hide));
  }, "Beside it: hide each place in turn, with its neighbours: how much less probable does the word get?", data.reasons.occlude);
  const lens = button("lens", () => {
    lens.setAttribute("aria-pressed", String(lens.getAttribute("aria-pressed") !== "true"));
    failed.clear();
  }, {
    reason: data.reasons.lens, pressed: false, title: "Under the mouse: the word nearest to each patch, layer by layer",
  });
  const strength = h("input", { type: "range", min: 0, max: 1, step: 0.05, value: state.strength, "aria-label": "Strength of the heat" });
  strength.addEventListener("input", () => { state.strength = Number(strength.value); paint(); });

  // --- one patch under the mouse
  const point = async (side, k, patch) => {
    const mine = (pointing += 1);
    const map = side.of()?.images[k], picture = data.pictures[k];
    const caption = side.images[k].caption;
    if (!map) return;
    if (patch < 0) return paint();
    const value = (numbers(map.cells)[patch] / 255) * map.most;
    const place = `Row ${Math.floor(patch / picture.cols)}, column ${patch % picture.cols}: `;
    const line = [place, h("b", {}, side.unit(value))];
    caption.replaceChildren(...line);
    if (lens.getAttribute("aria-pressed") !== "true" || failed.has(k)) return;
    if (!lenses.has(k)) lenses.set(k, ask({ ask: "lens", media: picture.media }));
    try {
      const found = await lenses.get(k);
      if (mine !== pointing || signal.aborted) return; // the mouse, or the word, is elsewhere by now
      const ids = numbers(found.ids), names = new Map(found.names), patches = found.ids.shape[1];
      const said = found.layers.map((layer, l) => `${layer < 0 ? "in" : layer}: ${visible(names.get(ids[l * patches + patch]) ?? "?")}`);
      caption.replaceChildren(...line, h("br"), h("span", { class: "wb-lens" }, said.join(" · ")));
    } catch (error) {
      lenses.delete(k); // it is asked again once the lens is taken up anew
      failed.add(k);
      complain(error);
    }
  };

  // --- every layer and head at once
  const gridDetails = h("details", {}, h("summary", {}, "Every layer and head"), headsBox);
  let opened = 0;
  const openHeads = async () => {
    const mine = (opened += 1), k = picked();
    if (!gridDetails.open || fixed) {
      if (fixed) headsBox.replaceChildren(h("p", { class: "wb-note" }, fixed));
      return;
    }
    const [kind, first] = data.pictures.length ? ["image", data.pictures[0]] : ["audio", data.sounds[0]];
    if (!first) return headsBox.replaceChildren(h("p", { class: "wb-note" }, "There is no picture and no sound to look at."));
    try {
      const { cells, layers: inRow, heads: inColumn } = await ask({ ask: "heads", token: k, kind, media: first.media });
      if (mine !== opened) return; // another word was picked meanwhile
      const all = numbers(cells), H = inColumn.length;
      const [rows, cols] = kind === "image" ? [first.rows, first.cols] : [1, first.frames];
      const width = kind === "image" ? Math.max(20, Math.min(64, Math.round((34 * cols) / rows))) : 72;
      const one = (i, j) => { // a reading may hold some layers and heads only: their numbers are not their places
        const l = inRow[i], n = inColumn[j], map = heatCanvas(`Layer ${l}, head ${n}`);
        map.paint(all.subarray((i * H + j) * rows * cols, (i * H + j + 1) * rows * cols), rows, cols, 1);
        Object.assign(map.canvas.style, { position: "static", width: `${width}px`, height: kind === "image" ? `${Math.round((width * rows) / cols)}px` : "14px" });
        map.canvas.addEventListener("click", () => {
          layers.value = String(l);
          heads.value = String(n);
          Object.assign(state, { layer: l, head: n });
          again();
          openHeads();
        });
        return h("td", { class: state.layer === l && state.head === n ? "on" : "" }, map.canvas);
      };
      headsBox.replaceChildren(
        h("p", { class: "wb-note" }, `${kind === "image" ? "The first picture" : "The first sound"}, token ${k}. Each is scaled to its own largest value. A click picks it; the choices above do the same.`),
        h("table", {}, h("thead", {}, h("tr", {}, h("th", {}), inColumn.map((n) => h("th", { scope: "col" }, String(n))))),
          h("tbody", {}, inRow.map((l, i) => h("tr", {}, h("th", { scope: "row" }, `${l} ${data.layers[l]?.startsWith("sliding") ? "S" : "F"}`), inColumn.map((_, j) => one(i, j)))))),
        h("p", { class: "wb-note" }, `S: sliding, blind beyond ${data.window ?? "its window"} tokens. F: full.`));
    } catch (error) {
      complain(error);
    }
  };
  gridDetails.addEventListener("toggle", openHeads);

  sights.append(...figures("images"), ...(data.sounds.length ? [h("div", { class: "wb-sounds" }, figures("sounds"))] : []));
  body.append(
    h("div", { class: "wb-pick" }, strip.element),
    h("p", { class: "wb-note", hidden: !reason }, reason),
    h("div", { class: "wb-bar" }, layerField, headField, most, noSinks, hide, lens, h("label", { class: "wb-field" }, "Heat", strength)),
    sights,
    shares,
    h("div", { class: "wb-head" }, "Words it looked at"), around.element, status, gridDetails);
  let behind = false; // in a tab that nobody sees: a question would keep the model from whoever looks at another
  const choose = () => {
    strip.select(model.get("selected") < data.pieces.length ? model.get("selected") : -1);
    behind = !body.getClientRects().length;
    if (behind) return;
    again();
    openHeads();
  };
  choose();
  const seen = new ResizeObserver(() => behind && choose());
  seen.observe(body);
  signal.addEventListener("abort", () => seen.disconnect(), { once: true });
  listen(model, "change:selected", choose, signal);
}

export default view("Where the model looked", build);
