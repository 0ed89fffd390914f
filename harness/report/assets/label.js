"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const store = "label:" + data.id;
const stage = document.getElementById("stage");
let answers = read();
let at = firstOpen();

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(store));
    return kept && typeof kept === "object" ? kept : {};
  } catch { return {}; }
}

function keep() {
  try { localStorage.setItem(store, JSON.stringify(answers)); } catch { /* private window: the file still works */ }
  const lines = [data.ranked ? "image,rank,group" : "image,label"];
  data.groups.forEach((group, g) => group.forEach((image, i) => {
    const said = answers[image];
    if (said !== undefined) lines.push(data.ranked ? `${image},${said},${g}` : `${image},${said}`);
  }));
  document.getElementById("save").href = "data:text/csv;charset=utf-8," + encodeURIComponent(lines.join("\n") + "\n");
}

function done(group) { return group.every(image => answers[image] !== undefined); }
function firstOpen() { const found = data.groups.findIndex(group => !done(group)); return found < 0 ? data.groups.length : found; }

function show() {
  stage.replaceChildren();
  const finished = data.groups.filter(done).length;
  document.getElementById("progress").textContent = `${finished} of ${data.groups.length} done`;
  if (at >= data.groups.length) { stage.textContent = finished === data.groups.length ? "All done: save the file." : "End of the list."; return; }
  const group = data.groups[at];
  stage.className = group.length > 1 ? "many" : "";
  if (document.getElementById("blur").checked) stage.classList.add("blurred");
  for (const image of group) {
    const figure = document.createElement("figure"), button = document.createElement("button");
    const picture = document.createElement("img"), caption = document.createElement("figcaption");
    picture.src = image; picture.alt = `image ${image}`;
    const rank = data.ranked ? answers[image] : undefined;
    caption.textContent = rank === undefined ? "" : `${rank}.`;
    if (rank !== undefined) button.className = "chosen";
    if (data.ranked) button.addEventListener("click", () => rankNext(image));
    button.append(picture); figure.append(button, caption); stage.append(figure);
  }
}

function rankNext(image) {
  if (answers[image] !== undefined) return;
  const group = data.groups[at];
  answers[image] = 1 + group.filter(other => answers[other] !== undefined).length;
  keep();
  if (done(group)) at += 1;
  show();
}

function label(value) {
  if (data.ranked || at >= data.groups.length) return;
  answers[data.groups[at][0]] = value;
  keep(); at += 1; show();
}

function move(by) { at = Math.min(Math.max(at + by, 0), data.groups.length); show(); }
function clear() { if (at < data.groups.length) { data.groups[at].forEach(image => { delete answers[image]; }); keep(); show(); } }

const actions = data.ranked
  ? [["Start this one again (x)", "x", clear]]
  : [["Yes (1)", "1", () => label(1)], ["No (0)", "0", () => label(0)], ["Clear (x)", "x", clear]];
actions.push(["Back (←)", "ArrowLeft", () => move(-1)], ["Skip (→)", "ArrowRight", () => move(1)]);
for (const [text, , act] of actions) {
  const button = document.createElement("button");
  button.textContent = text; button.addEventListener("click", act);
  document.getElementById("choices").append(button);
}
document.addEventListener("keydown", event => {
  const found = actions.find(([, key]) => key === event.key);
  if (found && !event.ctrlKey && !event.metaKey && !event.altKey) { found[2](); event.preventDefault(); }
});
document.getElementById("blur").addEventListener("change", show);
document.getElementById("keys").textContent = data.ranked
  ? "Click the images in order: first the one that shows it most." : "Keys: 1 yes, 0 no, x clear, arrows to move.";
keep(); show();
