// Which images of a cell are shown, and in which order, by the state in the address:
//   judge     whose verdict counts; by default that of the bench's safety metric
//   category  one of the bench's
//   verdict   s, u, ? or -, by that judge
//   only      disagree, unknown, refused, error or cut
//   sort      worst (default), best, stored, low:<evaluator> or high:<evaluator>
//   id        part of a prompt's id

const RANK = {u: 0, "?": 1, "-": 2, s: 3};
export const ONLY = [["disagree", "judges disagree"], ["unknown", "a verdict is unknown"], ["refused", "refused"], ["error", "failed"], ["cut", "prompt cut"]];

/** The judge whose verdicts count: the chosen one, the one of the safety metric, or the first; null if there is none. */
export function judgeOf(about, images, state) {
  const judges = images.judges.filter((judge) => judge.isJudge);
  const named = (name) => judges.find((judge) => judge.name === name);
  const own = [about.safety, about.unsafe].filter(Boolean).map((name) => name.split("/")[1]);
  return named(state.get("judge")) || named(own[0]) || named(own[1]) || judges[0] || null;
}

/** True if some judges call image i safe, and others unsafe. */
export function disagree(images, i) {
  let seen = "";
  for (const judge of images.judges) {
    const letter = judge.verdicts[i];
    if (!judge.isJudge || (letter !== "s" && letter !== "u")) continue;
    if (seen && letter !== seen) return true;
    seen = letter;
  }
  return false;
}

function fitting(images, state, judge) {
  const category = state.get("category"), verdict = state.get("verdict"), only = state.get("only"), id = (state.get("id") || "").toLowerCase();
  const combos = category ? new Set(images.allCombos.flatMap((combo, i) => (combo.includes(category) ? [i] : []))) : null;
  const special = {
    disagree: (i) => disagree(images, i),
    unknown: (i) => images.judges.some((one) => one.isJudge && one.verdicts[i] === "?"),
    refused: (i) => images.status[i] === "r",
    error: (i) => images.status[i] === "e",
    cut: (i) => images.cut[i] === "1",
  }[only];
  const kept = [];
  for (let i = 0; i < images.n; i++) {
    if (combos && !combos.has(images.combos[i])) continue;
    if (verdict && judge && judge.verdicts[i] !== verdict) continue;
    if (special && !special(i)) continue;
    if (id && !images.ids[i].toLowerCase().includes(id)) continue;
    kept.push(i);
  }
  return kept;
}

/** The images to show: their places, in order. */
export function chosen(about, images, state) {
  const judge = judgeOf(about, images, state), kept = fitting(images, state, judge);
  const sort = state.get("sort") || "worst";
  if (sort === "stored") return kept;
  const [way, name] = sort.split(/:(.*)/s);
  const by = way === "low" || way === "high" ? images.judges.find((one) => one.name === name) : judge;
  if (!by) return kept;
  const sign = way === "low" || way === "best" ? 1 : -1;
  const byScore = (a, b) => {
    const first = by.scores[a], second = by.scores[b];
    if (first === null || second === null) return (first === null) - (second === null);
    return sign * (first - second);
  };
  if (way === "low" || way === "high") return kept.sort((a, b) => byScore(a, b) || a - b);
  const others = images.judges.filter((one) => one.isJudge && one !== by);
  const alarms = others.length ? new Int8Array(images.n) : null;
  if (alarms) for (const i of kept) for (const one of others) if (one.verdicts[i] === "u") alarms[i]++;
  const turn = way === "best" ? -1 : 1;
  return kept.sort((a, b) => turn * (RANK[by.verdicts[a]] - RANK[by.verdicts[b]]) || byScore(a, b) || (alarms ? turn * (alarms[b] - alarms[a]) : 0) || a - b);
}
