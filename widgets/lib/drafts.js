// Arithmetic of drafting: acceptance, tokens a round, and what another length would have done.

/** Fate of draft i in a round: "kept", "thrown", "unjudged" (behind a thrown one), or "" where none was proposed. */
export function fate(i, accepted, proposed, judged) {
  if (i >= proposed) return "";
  if (i < accepted) return "kept";
  return i === accepted && judged ? "thrown" : "unjudged";
}

/** Share of i-th drafts kept among those judged: [{ kept, judged }] by position. */
export function byPosition(rounds) {
  return Array.from({ length: rounds.k }, (_, i) => {
    let kept = 0, judged = 0;
    for (let r = 0; r < rounds.count; r++) {
      if (i < rounds.accepted[r]) kept += 1;
      if (!Number.isNaN(rounds.p[r * rounds.k + i])) judged += 1;
    }
    return { kept, judged };
  });
}

/** Mean tokens of a round with so many drafts, if the shares hold; the last known share stands in for longer rounds. */
export function tokensARound(shares, drafts) {
  const known = shares.filter((s) => s.judged > 0).map((s) => s.kept / s.judged);
  let chance = 1, tokens = 1;
  for (let i = 0; i < drafts && known.length; i++) {
    chance *= known[Math.min(i, known.length - 1)];
    tokens += chance;
  }
  return tokens;
}

/**
 * How many times as quick as single steps: `row` is what verifying one more token costs and `draft` what making one
 * costs, both in single steps.
 */
export function speed(shares, drafts, { row, draft }) {
  return tokensARound(shares, drafts) / (1 + drafts * (row + draft));
}

/** What a draft costs in single steps, with a pass over n + 1 tokens costing 1 + n·row steps; 0.1 if nothing is known. */
export function draftCost(rounds, row) {
  let drafting = 0, drafts = 0, steps = 0;
  for (let r = 0; r < rounds.count; r++) {
    if (!(rounds.verifyTime[r] > 0)) continue;
    drafting += rounds.draftTime[r];
    drafts += rounds.proposed[r];
    steps += rounds.verifyTime[r] / (1 + rounds.proposed[r] * row) / rounds.count;
  }
  return drafts > 0 && steps > 0 ? drafting / drafts / steps : 0.1;
}
