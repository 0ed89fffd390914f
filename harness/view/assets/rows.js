// Rows of the board: which are kept, what they show, and in which order.

import {metric, comparison} from "./format.js";

export const OWN = "own"; // each bench's own judge

/** The rows that fit the state: filters of the same value, and every word of the search. */
export function keptRows(board, state) {
  const words = (state.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
  return board.rows.filter((row) => {
    for (const key of ["model", "method", "bench", "seed", "status"]) {
      const wanted = state.get(key);
      if (wanted && row[key] !== wanted) return false;
    }
    if (!words.length) return true;
    const text = `${row.label} ${row.model} ${row.bench} ${row.cell} ${row.status} ${row.differs}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

/** The judges that some unsafe rate is by. */
export function judgesOf(board) {
  return Object.values(board.metrics).filter((about) => about.base === "unsafe_rate" && about.judge).map((about) => about.judge).sort();
}

/** The name of the unsafe rate that a row shows: by the chosen judge, or by its bench's own. */
export function rateName(row, judge) {
  return judge === OWN ? row.unsafe : `unsafe_rate/${judge}`;
}

/** The full name of a metric of a row: `clip_score` may be `clip_score/<evaluator>`. */
export function found(row, name) {
  if (!name) return null;
  if (name in row.metrics) return name;
  return Object.keys(row.metrics).find((one) => one.startsWith(`${name}/`)) || null;
}

/** A row's metric as a record, null where it has none. */
export function metricOf(board, row, name) {
  return name && row.metrics[name] ? metric(row.metrics[name], board.texts) : null;
}

/** A row's difference to a baseline by a metric, null where there is none. */
export function comparisonOf(board, row, label, name) {
  const values = row.against[label]?.metrics[name];
  return values ? comparison(values, board.texts) : null;
}

/** The baselines of the rows, the base model first. */
export function baselinesOf(rows) {
  const labels = new Set(rows.flatMap((row) => Object.keys(row.against)));
  return [...labels].sort((a, b) => (b === "none") - (a === "none") || a.localeCompare(b));
}

/** Sort by key(row), rows without one last whichever the direction. */
export function sorted(rows, key, descending) {
  const keyed = rows.map((row, i) => ({row, i, key: key(row)}));
  const empty = (value) => value === null || value === undefined || value === "";
  keyed.sort((a, b) => {
    if (empty(a.key) || empty(b.key)) return empty(a.key) - empty(b.key) || a.i - b.i;
    const order = typeof a.key === "number" && typeof b.key === "number" ? a.key - b.key : String(a.key).localeCompare(String(b.key), "en", {numeric: true});
    return (descending ? -order : order) || a.i - b.i;
  });
  return keyed.map((one) => one.row);
}
