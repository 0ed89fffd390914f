"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
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

  function sort(table, column, ascending) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, key: key(row, column) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return ascending ? compare(a.key, b.key) : compare(b.key, a.key);
    });
    body.append(...rows.map((item) => item.row));
    all("thead th", table).forEach((header, i) => {
      if (i === column) header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      else header.removeAttribute("aria-sort");
    });
  }

  function nextDirection(header) {
    const now = header.getAttribute("aria-sort");
    if (now) return now !== "ascending";
    return header.dataset.better !== "higher";
  }

  for (const table of all("#leaderboard, .matrix")) {
    all("thead th", table).forEach((header, i) => {
      header.querySelector("button").addEventListener("click", () => sort(table, i, nextDirection(header)));
    });
  }
  const board = document.getElementById("leaderboard");
  document.getElementById("sorter").addEventListener("change", (event) => {
    const column = event.target.value;
    const better = column === "" ? "" : all("thead th", board)[column].dataset.better;
    if (column !== "") sort(board, Number(column), better !== "higher");
  });

  const filters = all("[data-filter]");
  const find = document.getElementById("find");
  function filter() {
    const wanted = find.value.trim().toLowerCase();
    for (const row of all("tr[data-find]")) {
      const missed = !row.dataset.find.toLowerCase().includes(wanted);
      row.hidden = missed || filters.some((f) => (
        f.value !== "" && f.dataset.filter in row.dataset && row.dataset[f.dataset.filter] !== f.value));
    }
  }
  [...filters, find].forEach((f) => f.addEventListener("input", filter));

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
  function listen() {
    all("[data-tip]").forEach((point) => {
      if (point.dataset.heard) return;
      point.dataset.heard = "yes";
      for (const name of ["mouseenter", "focus"]) point.addEventListener(name, () => showTip(point));
      for (const name of ["mouseleave", "blur"]) point.addEventListener(name, () => { tip.hidden = true; });
    });
  }
  listen();
  document.addEventListener("drawn", listen);

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
