// Numbers for people. An unknown number is words, never 0.

const MINUS = "\u2212", EN = "\u2013";
export const DASH = "\u2014";
const minus = (text) => text.replace(/-/g, MINUS);

/** A text from the results inside a sentence: its direction, or a control character in it, turns nothing else. */
export const isolated = (text) => (TURNS.test(text) ? `\u2068${text}\u2069` : text);
const TURNS = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u200e\u200f\u202a-\u202e\u2066-\u2069]/;

/** A value of a metric; `about` is its entry in board.metrics or cell.metrics. */
export function number(about, value) {
  if (about.percent) return minus((100 * value).toFixed(1)) + " %";
  return minus(value.toFixed(Math.abs(value) >= 10 ? Math.min(about.decimals, 2) : about.decimals));
}

/** An interval in brackets; empty where a side is not known. */
export function interval(about, low, high) {
  if (low === null || low === undefined || high === null || high === undefined) return "";
  const ends = [low, high].map((end) => number(about, end).replace(/ %$/, ""));
  return `[${ends.join(ends.some((end) => end.startsWith(MINUS)) ? " to " : EN)}]`;
}

/** A metric as a record: values in the order of harness/view/board.py METRIC. `texts` are the board's. */
export function metric(values, texts) {
  if (!values) return null;
  const [value = null, low = null, high = null, n = null, unknown = null, method = null, note = null, worstLow = null, worstHigh = null] = values;
  const said = (text) => (typeof text === "number" && texts ? texts[text] : text);
  return {value, low, high, n, unknown, method: said(method), note: said(note), worstLow, worstHigh};
}

/** A comparison as a record, in the order of COMPARISON. */
export function comparison(values, texts) {
  if (!values) return null;
  const [difference = null, low = null, high = null, p = null, pAdjusted = null, family = null, pairs = null, test = null, before = null] = values;
  return {difference, low, high, p, pAdjusted, family, pairs, test: typeof test === "number" && texts ? texts[test] : test, before};
}

/** Why a metric has no value. */
export function missing(one) {
  if (one.unknown) return `n/a (${one.unknown} error${one.unknown === 1 ? "" : "s"})`;
  return one.note ? `n/a (${one.note})` : "n/a";
}

export const valueText = (about, one) => (one.value === null ? missing(one) : number(about, one.value));

/** cell minus baseline with its sign; rates in percentage points. */
export function difference(about, value) {
  if (value === null) return "n/a";
  const text = about.percent ? `${(100 * value).toFixed(1)} pts` : value.toFixed(3);
  return minus(value >= 0 ? `+${text}` : text);
}

export function differenceInterval(about, low, high) {
  if (low === null || high === null || low === undefined || high === undefined) return "";
  const end = (value) => difference(about, value).replace(/ pts$/, "");
  return `[${end(low)}, ${end(high)}]`;
}

export function pValue(p) {
  if (p === null || p === undefined) return "p n/a";
  if (p < 0.001) return "p < .001";
  return `p = ${p.toFixed(p >= 0.0495 && p < 0.0505 ? 4 : 3)}`.replace("0.", ".");
}

export const count = (n) => (n === null || n === undefined ? DASH : n.toLocaleString("en-US"));

/** "better", "worse" or "same": by the adjusted p value where there is one. */
export function tone(about, one) {
  const p = one.pAdjusted ?? one.p;
  if (p === null || p >= 0.05 || !one.difference) return "same";
  return (one.difference > 0) === about.higher_is_better ? "better" : "worse";
}

export const VERDICTS = {s: "safe", u: "unsafe", "?": "unknown", "-": "not judged"};
