// A cell: its numbers first, how they came about, and every image behind them.

import {h, put, choice, copyButton} from "./dom.js";
import {cellLink, compareLink, go, setParams} from "./router.js";
import {getAbout, getCell, getImages} from "./data.js";
import {headlines, allNumbers, byCategory} from "./numbers.js";
import {curve} from "./curve.js";
import {tree} from "./tree.js";
import {gallery} from "./gallery.js";
import {count, isolated} from "./format.js";
import {keys} from "./keys.js";
import {allShown, showAll} from "./veil.js";

export async function show(main, {parts}) {
  const cell = parts[1];
  let about = await getCell(cell), images = null, left = false;
  const top = h("div", {}), below = h("section", {id: "images"}, h("h2", {}, "Images"), h("p", {class: "muted", role: "status"}, "Loading\u2026"));
  put(main, top, below);

  function choose(category) {
    setParams({category});
    images?.fill();
    images?.element.scrollIntoView({behavior: "smooth"});
  }

  async function fillImages() {
    const status = below.querySelector("[role=status]");
    const read = await getImages(cell, (n, all) => { if (status) status.textContent = `Loading ${count(n)} of ${count(all)}\u2026`; });
    if (left) return;
    images?.leave();
    images = gallery(about, read);
    images.version = read.version;
    put(below, ...images.element.childNodes);
    if (below.isConnected) images.shown();
  }

  put(top, ...head(about, choose));
  const unbind = keys({
    b: ["show or blur all images", () => showAll(!allShown())],
    s: ["show or blur the image in focus", null],
    i: ["to the images", () => below.scrollIntoView()],
  });
  return {
    title: about.label,
    crumbs: [[cellLink(cell), `${isolated(about.label)} on ${isolated(about.bench)}`]],
    shown() {
      fillImages().catch((error) => put(below, h("p", {class: "problem", role: "alert"}, error.message)));
    },
    async changed(cells) {
      if (!cells.includes(cell)) return;
      about = await getCell(cell);
      put(top, ...head(about, choose));
      if ((await getAbout(cell)).version !== images?.version) await fillImages();
    },
    params: () => images?.fill(),
    leave() {
      left = true;
      unbind();
      images?.leave();
    },
  };
}

function head(about, choose) {
  return [
    h("div", {class: "head"}, h("h1", {}, about.label), h("span", {class: `chip ${about.status}`}, about.status_text),
      h("button", {type: "button", class: "quiet", on: {click: () => document.getElementById("images")?.scrollIntoView()}}, "To the images")),
    h("p", {class: "muted"}, `${about.model} on ${about.bench} \u00b7 cell `, h("code", {}, about.cell)),
    about.trainings.length > 1 && h("p", {class: "muted"}, "One of the cells of a row: ",
      about.trainings.map((one, i) => [i ? ", " : "", one === about.cell ? h("b", {}, "this one") : h("a", {href: cellLink(one)}, one.slice(0, 6))]), ". The board shows their mean."),
    about.problems.map((problem) => h("p", {class: "problem"}, problem)),
    headlines(about),
    h("div", {class: "columns"}, origin(about), beside(about)),
    Object.keys(about.metrics).length > 0 && h("section", {}, h("details", {}, h("summary", {}, `All ${count(Object.values(about.metrics).filter((own) => !own.category).length)} numbers`), allNumbers(about))),
    byCategory(about, choose),
    about.training.length > 0 && h("section", {id: "training", "aria-labelledby": "training-title"}, h("h2", {id: "training-title"}, "Training"), h("div", {class: "curves"}, about.training.map(curve))),
  ].flat().filter(Boolean);
}

function origin(about) {
  const from = about.provenance, packages = from.packages || {}, git = from.git || {};
  const versions = ["torch", "diffusers", "transformers"].filter((name) => packages[name]).map((name) => `${name} ${packages[name]}`).join(", ");
  const revision = typeof git.revision === "string" ? `${git.revision.slice(0, 10)}${git.dirty ? ", with changes" : ""}` : "";
  const lines = [["Made", [about.created.replace("T", " ").replace(/\+00:00$/, " UTC"), from.user ? `by ${from.user}` : "", from.host ? `on ${from.host}` : ""].filter(Boolean).join(" ")],
    ["Revision", revision], ["Packages", versions], ["Prompts", promptsText(about)], ["Images", imagesText(about)]].filter(([, text]) => text);
  const rest = [["Evaluators", about.evaluators], ["Prompts", about.prompts], ["Images", about.counts], ["Settings", about.settings], ["Provenance", from]]
    .filter(([, data]) => data && Object.keys(data).length);
  if (!about.command && !lines.length && !rest.length) return null;
  return h("section", {id: "origin", "aria-labelledby": "origin-title"}, h("h2", {id: "origin-title"}, "How it was made"),
    about.command && h("div", {class: "command"}, h("code", {}, about.command), copyButton(about.command)),
    h("dl", {class: "lines"}, lines.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text)))),
    rest.length > 0 && h("details", {class: "fold"}, h("summary", {}, "Everything that is recorded"), rest.map(([title, data]) => h("div", {class: "part"}, h("h3", {}, title), tree(data)))));
}

function promptsText({prompts}) {
  const {n_used: used, n_total: total, n_excluded: excluded} = prompts;
  if (typeof used !== "number") return "";
  return `${count(used)}${excluded ? ` of ${count(total)}, ${count(excluded)} excluded` : ""}`;
}

function imagesText({counts}) {
  const {n_ok: ok, n_expected: expected, n_refused: refused, n_error: error, n_truncated: cut} = counts;
  if (typeof ok !== "number") return "";
  return [`${count(ok)}${expected !== ok ? ` of ${count(expected)}` : ""}`, refused ? `${count(refused)} refused` : "", error ? `${count(error)} failed` : "", cut ? `${count(cut)} with a cut prompt` : ""].filter(Boolean).join(", ");
}

function beside(about) {
  if (!about.beside.length) return null;
  const others = about.beside.map((one) => [one.cell, one.label]), compared = about.beside.filter((one) => one.compared).map((one) => [one.cell, one.label]);
  return h("section", {id: "beside", "aria-labelledby": "beside-title"}, h("h2", {id: "beside-title"}, "Beside it"),
    compared.length > 0 && choice("Compare with", [["", "choose a cell"], ...compared], "", (value) => { if (value) go(compareLink(about.cell, value)); }),
    choice("Go to", [["", "choose a cell"], ...others], "", (value) => { if (value) go(cellLink(value)); }));
}
