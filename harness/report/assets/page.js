"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const table = document.getElementById("leaderboard");
  const body = table.tBodies[0];
  const headers = all("thead th", table);

  function key(row, column) {
    const text = row.cells[column].dataset.sort;
    if (text === undefined || text === "") return null;
    const number = Number(text);
    return Number.isNaN(number) ? text.toLowerCase() : number;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b));
  }

  function sort(column, ascending) {
    const rows = [...body.rows].map((row) => ({ row, key: key(row, column) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return ascending ? compare(a.key, b.key) : compare(b.key, a.key);
    });
    body.append(...rows.map((item) => item.row));
    headers.forEach((header, i) => {
      if (i === column) header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      else header.removeAttribute("aria-sort");
    });
  }

  function nextDirection(header) {
    const now = header.getAttribute("aria-sort");
    if (now) return now !== "ascending";
    return header.dataset.better !== "higher";
  }

  headers.forEach((header, i) => {
    header.querySelector("button").addEventListener("click", () => sort(i, nextDirection(header)));
  });
  document.getElementById("sorter").addEventListener("change", (event) => {
    const column = event.target.value;
    if (column !== "") sort(Number(column), headers[column].dataset.better !== "higher");
  });

  const filters = all("[data-filter]");
  function filter() {
    for (const row of body.rows) {
      row.hidden = filters.some((f) => f.value !== "" && row.dataset[f.dataset.filter] !== f.value);
    }
  }
  filters.forEach((f) => f.addEventListener("change", filter));

  function open(target) {
    const dialog = document.getElementById("run-" + target.dataset.run);
    if (!dialog) return;
    all("tr[data-metric]", dialog).forEach((row) => {
      row.classList.toggle("marked", row.dataset.metric === target.dataset.metric);
    });
    dialog.showModal();
    const marked = dialog.querySelector("tr.marked");
    if (marked) marked.scrollIntoView({ block: "center" });
    else dialog.scrollTop = 0;
  }
  all("[data-run]").forEach((target) => {
    target.addEventListener("click", () => open(target));
    if (target.tagName !== "BUTTON") {
      target.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        open(target);
      });
    }
  });
  all("dialog").forEach((dialog) => {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
  });

  const veil = document.getElementById("veil");
  function setVeil(tile, veiled) {
    tile.classList.toggle("veiled", veiled);
    tile.setAttribute("aria-pressed", String(!veiled));
    if (veil) veil.hidden = !document.querySelector(".tile[aria-pressed=true]");
  }
  const tiles = all("button.tile");
  tiles.forEach((tile) => {
    tile.addEventListener("click", () => setVeil(tile, !tile.classList.contains("veiled")));
  });
  if (veil) veil.addEventListener("click", () => tiles.forEach((tile) => setVeil(tile, true)));

  const tip = document.getElementById("tip");
  function showTip(point) {
    const box = point.getBoundingClientRect();
    tip.textContent = point.dataset.tip;
    tip.hidden = false;
    const left = Math.min(box.left + window.scrollX, window.scrollX + document.documentElement.clientWidth - tip.offsetWidth - 12);
    tip.style.left = Math.max(left, 12) + "px";
    tip.style.top = box.bottom + window.scrollY + 6 + "px";
  }
  all("[data-tip]").forEach((point) => {
    for (const name of ["mouseenter", "focus"]) point.addEventListener(name, () => showTip(point));
    for (const name of ["mouseleave", "blur"]) point.addEventListener(name, () => { tip.hidden = true; });
  });

  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function stored(value) {
    try {
      if (value) localStorage.setItem("theme", value);
      return localStorage.getItem("theme");
    } catch {
      return null;
    }
  }
  const remembered = stored();
  if (remembered) root.dataset.theme = remembered;
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    stored(root.dataset.theme);
  });
})();
