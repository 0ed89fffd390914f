"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const shared = (place) => data.shared[place];
  const dialog = document.getElementById("details");

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== "") element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== ""));
    return element;
  }
  const pair = (title, ...content) => make("div", {}, make("dt", {}, title), make("dd", {}, ...content));
  const small = (text) => (text ? make("span", { class: "d" }, text) : null);

  function number(packed) {
    const [name, title, value, interval, worst, n, unknown, note, judge, compared] = packed;
    return {
      name: shared(name), title: shared(title), value, interval, worst, n, unknown, note: shared(note),
      judge: shared(judge),
      compared: compared.map(([label, difference, range, p, rest]) => (
        { label: shared(label), difference, range, p, rest: shared(rest) })),
    };
  }

  function commandLine(text) {
    const code = make("code", { class: "command" }, text);
    const copy = make("button", { type: "button", class: "quiet copy" }, "Copy");
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        copy.textContent = "Selected";
      }
    });
    return pair("Command", code, copy);
  }

  function answer(one, run) {
    const facts = make("dl");
    if (one) {
      if (one.worst) facts.append(pair("Worst case", one.worst));
      facts.append(pair("n", one.n.toLocaleString("en"), one.unknown ? ` and ${one.unknown.toLocaleString("en")} unknown` : ""));
      for (const c of one.compared) {
        facts.append(pair(`Against ${c.label}`, [c.difference, c.range].filter(Boolean).join(" "), small(`${c.p}, ${c.rest}`)));
      }
      if (one.judge) facts.append(pair("Measured by", one.judge));
      if (one.note) facts.append(pair("Note", one.note));
    }
    if (run.command) facts.append(commandLine(run.command));
    for (const [title, text] of run.origin) facts.append(pair(shared(title), shared(text)));
    const section = make("section", { class: "answer" });
    if (one) {
      section.append(make("p", { class: "kind" }, one.title));
      section.append(make("p", { class: "value" }, one.value, one.interval ? make("span", { class: "range" }, `95 % interval ${one.interval}`) : null));
    }
    section.append(facts);
    return section;
  }

  function row(one, chosen) {
    const against = one.compared.map((c) => make("span", { class: "pair" },
      [c.difference, c.range].filter(Boolean).join(" "), ` against ${c.label}`, small(`${c.p}, ${c.rest}`)));
    const unknown = one.unknown ? small(`${one.unknown.toLocaleString("en")} unknown`) : null;
    return make("tr", { "data-metric": one.name, class: one.name === chosen ? "marked" : null },
      make("th", { scope: "row" }, one.name, small(one.note)),
      make("td", { "data-label": "Value" }, one.value),
      make("td", { "data-label": "95 % interval" }, one.interval, small(one.worst)),
      make("td", { "data-label": "n" }, one.n.toLocaleString("en"), unknown),
      make("td", { "data-label": "Against" }, ...against));
  }

  function numbers(run, chosen) {
    const heads = ["Metric", "Value", "95 % interval", "n", "Against"];
    const head = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text))));
    const body = make("tbody", {}, ...run.numbers.map((packed) => row(number(packed), chosen)));
    return make("table", { class: "numbers" }, head, body);
  }

  function fold(title, build) {
    const folded = make("details", {}, make("summary", {}, title));
    folded.addEventListener("toggle", () => {
      if (folded.open && folded.childElementCount === 1) folded.append(build());
    });
    return folded;
  }

  function tree(value) {
    if (Array.isArray(value)) {
      if (!value.some((item) => item !== null && typeof item === "object")) return make("span", {}, value.join(", "));
      return make("div", {}, ...value.map(tree));
    }
    if (value !== null && typeof value === "object") return entries(Object.entries(value));
    return make("span", { dir: "auto" }, value === null ? "\u2014" : String(value));
  }
  const nested = (value) => value !== null && typeof value === "object" && JSON.stringify(value).includes("{");
  function entries(pairs) {
    return make("dl", {}, ...pairs.map(([key, value]) => make("div", { class: nested(value) ? "nested" : null },
      make("dt", {}, key), make("dd", {}, tree(value)))));
  }

  function show(id, metric) {
    const run = data.runs[id];
    if (!run) return;
    const all = run.numbers.map(number);
    const chosen = metric || run.first;
    const one = all.find((item) => item.name === chosen) || all[0];
    const close = make("button", { class: "quiet close", "aria-label": "Close" }, "\u00d7");
    const heading = make("h2", { id: "details-title" }, make("i", { class: `swatch ${run.colour}` }), run.label);
    const place = make("p", { class: "muted" }, `${run.place} \u00b7 `,
      make("span", { class: `chip ${run.status[0]}` }, run.status[1]), " cell ", make("code", {}, id));
    const problems = run.problems.map((text) => make("p", { class: "problem" }, text));
    if (run.differs) problems.unshift(make("p", { class: "problem" }, `Not comparable with every other run of the bench: ${run.differs}`));
    const folds = run.folds.map(([title, parts]) => (
      fold(title, () => entries(parts.map(([key, value]) => [shared(key), shared(value)])))));
    if (all.length) folds.unshift(fold(`All numbers (${all.length})`, () => numbers(run, one.name)));
    dialog.replaceChildren(make("form", { method: "dialog" }, close), heading, place, ...problems,
      answer(one, run), make("div", { class: "folds" }, ...folds));
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  document.addEventListener("click", (event) => {
    const target = event.target.closest("[data-run]");
    if (target) show(target.dataset.run, target.dataset.metric);
    if (event.target === dialog) dialog.close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    const target = event.target.closest("[data-run]");
    if (!target || target.tagName === "BUTTON") return;
    event.preventDefault();
    show(target.dataset.run, target.dataset.metric);
  });

  document.querySelectorAll("details[data-plots]").forEach((folded) => folded.addEventListener("toggle", () => {
    if (!folded.open || folded.dataset.drawn) return;
    folded.dataset.drawn = "yes";
    for (const place of folded.dataset.plots.split(" ")) {
      const drawn = new DOMParser().parseFromString(data.plots[place], "text/html");
      folded.append(...drawn.body.children);
    }
    document.dispatchEvent(new Event("drawn"));
  }));
})();
