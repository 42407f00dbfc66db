// The flight recorder of multi-token prediction: every round, what was drafted, what was kept, and whether it paid.

import { numbers } from "./lib/arrays.js";
import { bars, curve } from "./lib/bars.js";
import { button, h } from "./lib/dom.js";
import { byPosition, draftCost, fate, speed, tokensARound } from "./lib/drafts.js";
import { count, percent, safe, seconds, visible } from "./lib/format.js";
import { emptyNote, eachFrame, listen, view } from "./lib/view.js";

const LONGEST = 8;
const FIRST = 20; // rounds drawn for the first paint: more than one sees at once; the others follow it
const MARKS = { kept: "✓", thrown: "✗", unjudged: "·", corrected: "↳", bonus: "+" };
const WORDS = {
  kept: "kept", thrown: "thrown away", unjudged: "never judged", corrected: "the model's word instead", bonus: "bonus: all drafts kept",
};

function read(data) {
  const rounds = { count: data.count, k: data.k };
  for (const name of ["draft", "q", "p", "proposed", "accepted", "emitted", "first", "last", "draftTime", "verifyTime"]) {
    rounds[name] = numbers(data[name]);
  }
  const names = new Map(data.names);
  rounds.name = (id) => names.get(id) ?? `<${id}>`;
  return rounds;
}

/** What happened in round r: drafts, then the model's own word. */
function events(rounds, r) {
  const out = [];
  for (let i = 0; i < rounds.proposed[r]; i++) {
    const at = r * rounds.k + i;
    const kind = fate(i, rounds.accepted[r], rounds.proposed[r], !Number.isNaN(rounds.p[at]));
    out.push({ kind, piece: rounds.name(rounds.draft[at]), q: rounds.q[at], p: rounds.p[at] });
  }
  if (rounds.emitted[r] >= 0) {
    out.push({ kind: rounds.accepted[r] === rounds.proposed[r] ? "bonus" : "corrected", piece: rounds.name(rounds.emitted[r]), q: NaN, p: NaN });
  }
  return out;
}

const chip = ({ kind, piece }) => h("span", { class: `wb-d ${kind}`, title: WORDS[kind] }, `${MARKS[kind]} ${visible(piece)}`);

function charts(rounds, shares) {
  const judged = shares.filter((s) => s.judged > 0);
  const most = rounds.k + 1;
  const histogram = Array.from({ length: most }, (_, n) => rounds.accepted.filter((a) => a === n).length);
  const total = (column) => column.reduce((a, b) => a + b, 0);
  const [drafting, verifying] = [total(rounds.draftTime), total(rounds.verifyTime)];
  const all = drafting + verifying || 1;
  return h("div", { class: "wb-charts" },
    bars("Kept, by place in the round", judged.map((s, i) => ({
      name: `draft ${i + 1}`, value: s.kept / s.judged, text: `${Math.round((100 * s.kept) / s.judged)} % of ${s.judged}`,
    }))),
    bars("Rounds, by drafts kept", histogram.map((n, k) => ({
      name: `${k} kept`, value: n / Math.max(1, ...histogram), text: String(n),
    }))),
    bars("Time", [
      { name: "drafting", value: drafting / all, text: seconds(drafting), mark: "other" },
      { name: "verifying", value: verifying / all, text: seconds(verifying) },
    ]));
}

function whatIf(rounds, shares) {
  const usual = Math.round(rounds.proposed.reduce((a, b) => a + b, 0) / Math.max(1, rounds.count));
  const result = h("p", { role: "status" });
  const plot = h("span", {});
  const slider = (label, low, high, step, value, write) => {
    const input = h("input", { type: "range", min: low, max: high, step, value, "aria-label": label });
    const output = h("output", {}, write(value));
    input.addEventListener("input", () => {
      output.textContent = write(Number(input.value));
      show();
    });
    return [h("label", {}, h("span", {}, label), input, output), () => Number(input.value)];
  };
  const [drafts, draftsOf] = slider("Drafts a round", 0, LONGEST, 1, Math.min(LONGEST, usual), String);
  const [row, rowOf] = slider("One more token to verify costs", 0, 1, 0.05, 0.1, (v) => `${v.toFixed(2)} steps`);
  const chosen = new Set(rounds.proposed.slice(0, -1)).size > 1; // by the drafter; the last one ends where the answer does
  const show = () => {
    const k = draftsOf();
    const cost = { row: rowOf(), draft: draftCost(rounds, rowOf()) };
    const all = Array.from({ length: LONGEST + 1 }, (_, n) => speed(shares, n, cost));
    const judged = shares.filter((s) => s.judged > 0).length;
    const known = all.slice(0, judged + 1);
    const beyond = k > judged;
    result.textContent = `${tokensARound(shares, k).toFixed(2)} tokens a round, about ${all[k].toFixed(2)}× the speed of single steps` +
      `${beyond ? " (longer than any round judged here)" : ""}. ${judged ? `Quickest up to ${judged}, the most that were judged here: ${known.indexOf(Math.max(...known))}.` : "No draft was judged here."}`;
    plot.replaceChildren(curve(all, k, `Speed for 0 to ${LONGEST} drafts: ${all.map((v) => v.toFixed(2)).join(", ")}`));
  };
  const details = h("details", {}, h("summary", {}, "What if rounds were longer or shorter?"),
    h("div", { class: "wb-whatif" }, h("div", {}, drafts, row, result,
      h("p", { class: "wb-note" }, "An estimate from the shares above and the times of this run. What a pass over more tokens costs depends on " +
        "the device: little on a GPU, much on a CPU." + (chosen ? " Here the drafter chose how long each round is and went on where it was sure, so " +
          "that longer ones look better than they would be." : ""))), plot));
  details.addEventListener("toggle", show, { once: true }); // nobody sees the curve before
  return details;
}

function build({ model, body, ask, complain, data, signal }) {
  if (!data.rounds) {
    body.append(emptyNote(model, "Nothing has been asked yet."));
    return;
  }
  const measure = button("Measure the speed-up", async () => {
    measure.setAttribute("aria-disabled", "true");
    measure.textContent = "measuring …";
    try {
      verdict.textContent = (await ask({ ask: "speedup" })).verdict;
    } catch (error) {
      complain(error);
    }
    measure.removeAttribute("aria-disabled");
    measure.textContent = "Measure again";
  }, { reason: data.reasons.speedup, title: "Runs the same answer with and without drafts, several times" });
  const verdict = h("p", { class: "wb-verdict", role: "status" }, data.verdict);
  body.append(verdict);
  if (!data.rounds.count) return;
  body.append(h("div", { class: "wb-bar" }, measure, data.reasons.speedup ? h("span", {}, data.reasons.speedup) : null));

  const rounds = read(data.rounds);
  const shares = byPosition(rounds);
  const soFar = h("div", { class: "wb-so-far", tabindex: "0", role: "region", "aria-label": "The answer up to this round" });
  const detail = h("div", {});
  const rows = [];
  let now = -1, timer = null;

  const reach = eachFrame(() => { // what is asked for here is known once it is laid out, which the frame does anyway
    const offset = rows[now].offsetTop - list.offsetTop;
    if (offset < list.scrollTop || offset + 34 > list.scrollTop + list.clientHeight) list.scrollTop = offset - 60;
    soFar.scrollTop = soFar.scrollHeight;
  });
  const show = (r, pick = true) => {
    if (r === now) return;
    if (r >= rows.length) fill(rounds.count);
    rows[now]?.removeAttribute("aria-current");
    now = r;
    rows[r].setAttribute("aria-current", "true");
    range.value = r;
    place.textContent = `round ${r} of ${rounds.count - 1}`;
    const first = rounds.first[r], end = rounds.last[r];
    soFar.replaceChildren(safe(data.pieces.slice(0, first).join("")), h("b", {}, safe(data.pieces.slice(first, end).join(""))));
    reach();
    const cell = (logprob, kind) => h("td", { class: "wb-num" }, Number.isNaN(logprob) ? "–" :
      [h("i", { class: `wb-pq ${kind}`, style: { "--w": `${100 * Math.exp(Math.min(0, logprob))}%` } }), percent(logprob)]);
    detail.replaceChildren(h("table", { class: "wb-detail" },
      h("thead", {}, h("tr", {}, ["word", "drafter's q", "model's p", "what became of it"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, events(rounds, r).map((e) => h("tr", {}, h("th", { scope: "row" }, chip(e)), cell(e.q, "q"), cell(e.p, ""), h("td", {}, WORDS[e.kind])))),
    ), h("p", { class: "wb-note" }, `Drafting ${seconds(rounds.draftTime[r])}, verifying ${seconds(rounds.verifyTime[r])}.`));
    if (pick && first < data.pieces.length) {
      model.set("selected", first);
      model.save_changes();
    }
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶ play";
  };
  const go = (r) => { stop(); show(Math.max(0, Math.min(rounds.count - 1, r))); };
  const range = h("input", { type: "range", min: 0, max: rounds.count - 1, value: 0, "aria-label": "Round" });
  range.addEventListener("input", () => go(Number(range.value)));
  const place = h("span", { class: "wb-num wb-note" });
  const play = button("▶ play", () => {
    if (timer) return stop();
    if (now === rounds.count - 1) show(0);
    play.textContent = "❚❚ pause";
    timer = setInterval(() => (now + 1 < rounds.count ? show(now + 1) : stop()), 700);
  });
  signal.addEventListener("abort", stop, { once: true });
  const list = h("ol", { class: "wb-rounds", "aria-label": "Rounds" });
  const fill = (until) => {
    const items = [];
    for (let r = rows.length; r < until; r++) {
      const told = `, ${count(rounds.accepted[r], "draft")} of ${rounds.proposed[r]} kept`;
      rows.push(button([h("span", { class: "no" }, h("span", { class: "wb-sr" }, "Round "), String(r)), events(rounds, r).map(chip),
        h("span", { class: "wb-sr" }, told)], () => go(r)));
      items.push(h("li", {}, rows[r]));
    }
    list.append(...items);
  };
  fill(Math.min(FIRST, rounds.count));
  if (rows.length < rounds.count) requestAnimationFrame(() => setTimeout(() => fill(rounds.count)));
  body.append(charts(rounds, shares), whatIf(rounds, shares),
    h("div", { class: "wb-head" }, "Replay"),
    h("div", { class: "wb-steps" }, button("◀", () => go(now - 1), { name: "Round before" }), play,
      button("▶", () => go(now + 1), { name: "Next round" }), range, place),
    soFar, detail,
    h("div", { class: "wb-bar" }, Object.keys(MARKS).map((kind) => h("span", {}, h("span", { class: `wb-d ${kind}` }, MARKS[kind]), " ", WORDS[kind]))),
    list);
  if (data.hidden) body.append(h("p", { class: "wb-note" }, `${count(data.hidden, "more round")} are not shown; trace.rounds has them.`));
  const follow = () => {
    const k = model.get("selected"); // a plain word between two rounds shows the one before it
    let r = 0;
    while (r + 1 < rounds.count && rounds.first[r + 1] <= k) r++;
    show(r, false);
  };
  follow();
  listen(model, "change:selected", () => model.get("selected") >= 0 && !timer && follow(), signal);
}

export default view("Drafts, round by round", build);
