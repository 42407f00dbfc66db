// Numbers and pieces of text as people read them.

// Control and direction characters, halves of characters: made visible, since they could disguise what is written
const UNSAFE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** Text that cannot reorder or hide its surroundings. */
export function safe(text) {
  return String(text).replace(UNSAFE, (c) => `⟨${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}⟩`);
}

const WIDTHLESS = /[\u00ad\u200b-\u200d\u2060-\u2064\ufeff\u{e0000}-\u{e007f}]/gu;

/** A piece of nothing but what has no width. A lone mark is none: it belongs on the letter before it, as in Hindi or Thai. */
export const HIDDEN = new RegExp(`^(?:${WIDTHLESS.source})+$`, "u");

/** A piece with its spaces, line breaks and what has no width to be seen, at most 40 characters. */
export function visible(piece) {
  const letters = [...piece];
  const short = letters.length <= 40 ? piece : letters.slice(0, 39).join("") + "…";
  const marked = short.replace(WIDTHLESS, (c) => `⟨${c.codePointAt(0).toString(16).toUpperCase()}⟩`).replace(/^(?=\p{M})/u, "◌");
  return safe(marked.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣")) || "∅";
}

/** A probability from its logarithm: 62.1 %, 0.003 %, 99.98 %. */
export function percent(logprob) {
  if (Number.isNaN(logprob)) return "–";
  const p = 100 * Math.exp(Math.min(logprob, 0));
  if (p === 0 || p >= 99.995) return `${p.toFixed(0)} %`;
  if (p >= 99.9) return `${p.toFixed(2)} %`;
  if (p >= 1) return `${p.toFixed(1)} %`;
  if (p < 0.0001) return "<0.0001 %";
  return `${Number(p.toPrecision(2))} %`;
}

/** Seconds: 12 ms, 1.24 s, 2 min 5 s. */
export function seconds(s) {
  if (s < 0.9995) return `${(1000 * s).toFixed(s < 0.01 ? 1 : 0)} ms`;
  if (s < 99.95) return `${s.toFixed(s < 10 ? 2 : 1)} s`;
  const whole = Math.round(s);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** "1 token", "1,234 tokens". By hand: a browser's first toLocaleString takes as long as drawing a view. */
export function count(n, one, many = one + "s") {
  return `${String(n).replace(/\B(?=(\d{3})+$)/g, ",")} ${n === 1 ? one : many}`;
}
