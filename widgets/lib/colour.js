// Amounts: viridis in ten steps for words (class p0 … p9, with an underline that is thicker for less), cividis-like
// ramps for heat. How sure a model was, as a step from 0 (not at all) to 9 (quite).

export const STEPS = 10;

/** Steps of each measure. Logprob and entropy in nats. */
export const MEASURES = {
  probability: {
    label: "probability", low: "0 %", high: "100 %",
    step: (row) => Math.min(9, Math.floor(10 * Math.exp(Math.min(row.logprob, 0)) + 1e-6)),
  },
  entropy: {
    label: "entropy", low: "4 nats or more", high: "0 nats",
    step: (row) => Math.max(0, Math.min(9, 9 - Math.floor(2.25 * row.entropy))),
  },
  rank: {
    label: "rank", low: "50th or later", high: "first choice",
    step: (row) => (row.rank <= 0 ? 9 : row.rank === 1 ? 7 : row.rank < 5 ? 5 : row.rank < 10 ? 3 : row.rank < 50 ? 1 : 0),
  },
};

const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121],
  [110, 206, 88], [181, 222, 43], [253, 231, 37],
];

/** Viridis at 0 … 1 as [r, g, b]. */
export function viridis(t) {
  const at = Math.max(0, Math.min(1, t)) * (VIRIDIS.length - 1);
  const k = Math.min(VIRIDIS.length - 2, Math.floor(at));
  return VIRIDIS[k].map((low, c) => Math.round(low + (VIRIDIS[k + 1][c] - low) * (at - k)));
}
