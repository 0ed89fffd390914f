// The board: every cell of the results, as a matrix of methods and benches, a plot and a table.

import {h, put, link, choice, later} from "./dom.js";
import {here, setParams} from "./router.js";
import {getBoard} from "./data.js";
import {keys} from "./keys.js";
import {keptRows, judgesOf, OWN} from "./rows.js";
import {table} from "./table.js";
import {matrix} from "./matrix.js";
import {front} from "./front.js";
import {count} from "./format.js";

const FILTERS = [["model", "Model"], ["method", "Method"], ["bench", "Bench"], ["seed", "Seed"], ["status", "Status"]];

export async function show(main, {params}) {
  let board = await getBoard();
  const tools = h("div", {class: "tools"}), counted = h("p", {class: "muted", role: "status"});
  const parts = h("div", {class: "parts"});
  const search = h("input", {type: "search", id: "search", placeholder: "Search", "aria-label": "Search rows", value: params.get("q") || ""});
  search.addEventListener("input", later(() => change({q: search.value.trim()}), 120));

  function change(changes) {
    setParams(changes);
    fill();
  }

  function fill() {
    const state = here().params, rows = keptRows(board, state), judge = state.get("judge") || OWN;
    put(counted, rows.length === board.rows.length ? `${count(rows.length)} rows` : `${count(rows.length)} of ${count(board.rows.length)} rows`);
    put(parts, board.rows.length === 0 && h("p", {class: "empty"}, "No runs yet. They appear here as soon as the first images are made."),
      front(board, rows, state, judge, change), matrix(board, rows, state, judge, change), table(board, rows, state, judge, change));
  }

  function fillTools() {
    const state = here().params;
    put(tools, search,
      FILTERS.map(([key, title]) => {
        const values = [...new Set(board.rows.map((row) => row[key]).filter((value) => value !== null))].sort((a, b) => a.localeCompare(b, "en", {numeric: true}));
        if (values.length < 2 && !state.get(key)) return null;
        return choice(title, [["", "all"], ...values.map((value) => [value, value])], state.get(key) || "", (value) => change({[key]: value}));
      }),
      choice("Unsafe rate by", [[OWN, "each bench's own judge"], ...judgesOf(board).map((name) => [name, name])], state.get("judge") || OWN,
        (value) => change({judge: value === OWN ? "" : value})));
  }

  put(main,
    h("div", {class: "head"}, h("h1", {}, board.name), counted,
      h("p", {class: "downloads"}, link("data/leaderboard.csv", "CSV", {download: "leaderboard.csv"}), " ", link("data/leaderboard.json", "JSON", {download: "leaderboard.json"}))),
    tools, parts);
  fillTools();
  fill();
  const unbind = keys({"/": ["search", () => search.focus()]});
  return {
    title: "Board",
    async changed() {
      board = await getBoard();
      fillTools();
      fill();
    },
    params() {
      fillTools();
      fill();
    },
    leave: unbind,
  };
}
