// What the pages ask the server, or the bundle's files, for. See harness/view/__init__.py for the addresses.

const kept = new Map(); // promises by address
const joinedCells = new Map(); // {version, images} by cell
const AT_ONCE = 6;

async function load(path) {
  const answer = await fetch(path, {cache: "no-store", credentials: "same-origin"});
  if (!answer.ok) throw new Error(answer.status === 404 ? "There is nothing here." : await answer.text());
  return answer.json();
}

/** The JSON at an address, asked for once until `forget`. */
export function getJson(path) {
  if (!kept.has(path)) {
    const promise = load(path);
    kept.set(path, promise);
    promise.catch(() => kept.delete(path));
  }
  return kept.get(path);
}

/** Ask again for what is known of these cells, and of the board; null: of everything. */
export function forget(cells) {
  const gone = cells?.map((cell) => `/${cell}`);
  for (const path of [...kept.keys()]) {
    if (!gone || path === "data/board.json" || gone.some((part) => path.includes(part)) || path.includes("/same/")) kept.delete(path);
  }
}

/** The board: board.rows, .metrics, .plots, .texts, .live; rows are as harness/view/board.py writes them. */
export const getBoard = () => getJson("data/board.json");

/** One cell without its images, as harness/view/cell.py writes it. */
export const getCell = (cell) => getJson(`data/cells/${cell}.json`);

/** How many images a cell has, and which evaluators: {n, version, chunk, page, combos, judges: [{name, is_judge}]}. */
export const getAbout = (cell) => getJson(`data/cells/${cell}/images.json`);

/** Two cells image by image, as harness/view/pairs.py writes it: differences are cell minus baseline. */
export const getPairs = (cell, baseline) => getJson(`data/compare/${cell}/${baseline}.json`);

/** All images of a cell, by columns. `progress` gets how many have been read.

    images.n; .ids[i], .repeats[i], .status ("o" ok, "r" refused, "e" error: one letter an image), .cut and .veiled
    ("1" or "0"), .categories(i), .hashes[i], .judges: [{name, isJudge, verdicts, scores}] with a letter an image
    ("s" safe, "u" unsafe, "?" unknown, "-" none) and scores[i] or null; .find(promptId, repeat) gives i or -1. */
export async function getImages(cell, progress, tries = 3) {
  const images = await getAbout(cell);
  const known = joinedCells.get(cell);
  if (known?.version === images.version) return known.images;
  const count = Math.ceil(images.n / images.chunk);
  const chunks = new Array(count);
  let next = 0, read = 0;
  async function work() {
    while (next < count) {
      const n = next++;
      chunks[n] = await load(`data/cells/${cell}/columns/${n}.json?v=${images.version}`); // kept joined, below
      read += chunks[n].ids.length;
      if (progress) progress(read, images.n);
    }
  }
  await Promise.all(Array.from({length: Math.min(AT_ONCE, count)}, work));
  if (tries && chunks.some((chunk) => chunk.version !== images.version)) { // it changed meanwhile
    forget([cell]);
    return getImages(cell, progress, tries - 1);
  }
  const made = joined(images, chunks);
  joinedCells.set(cell, {version: images.version, images: made});
  return made;
}

function joined(about, chunks) {
  const join = (key) => chunks.map((chunk) => chunk[key]).join("");
  const list = (pick) => chunks.flatMap(pick);
  const ids = list((chunk) => chunk.ids);
  const repeats = list((chunk) => chunk.repeats || new Array(chunk.ids.length).fill(0));
  const combos = list((chunk) => chunk.combos);
  const judges = about.judges.map(({name, is_judge: isJudge}) => ({
    name,
    isJudge,
    verdicts: chunks.map((chunk) => chunk.judges[name]?.verdicts ?? "-".repeat(chunk.ids.length)).join(""),
    scores: list((chunk) => chunk.judges[name]?.scores ?? new Array(chunk.ids.length).fill(null)),
  }));
  let places = null;
  return {
    n: ids.length, version: about.version, ids, repeats, judges,
    status: join("status"), cut: join("cut"), veiled: join("veiled"), hashes: list((chunk) => chunk.hashes),
    combos, allCombos: about.combos,
    categories: (i) => about.combos[combos[i]] || [],
    find(promptId, repeat) {
      places ||= new Map(ids.map((id, i) => [`${repeats[i]} ${id}`, i]));
      return places.get(`${repeat} ${promptId}`) ?? -1;
    },
  };
}

/** What is known of image i of a cell: prompt, seed, boxes and so on, as harness/view/details.py writes it. */
export async function getDetail(cell, i) {
  const images = await getAbout(cell);
  const n = Math.floor(i / images.page);
  const page = await getJson(`data/cells/${cell}/details/${n}.json`);
  return page.images[i - page.start];
}

/** The same prompt in the bench's other cells: {pending: [cell], cells: [{cell, noise, index, hash, veiled, status, judges, letters, shared}]}.

    Pending cells are not read yet: ask again after a moment. `letters` has a verdict letter for each of `judges`.
    `shared` where the noise is the same; else `noise` says why not. */
export async function getSame(cell, i) {
  const images = await getAbout(cell);
  const n = Math.floor(i / images.page), path = `data/cells/${cell}/same/${n}.json`;
  const page = await getJson(path);
  if (page.pending.length) kept.delete(path);
  const cells = page.cells.filter((one) => one.images[i - page.start]).map(({cell: other, judges, noise, images: all}) => {
    const [index, hash, veiled, letters, status, shared] = all[i - page.start];
    return {cell: other, judges, noise, index, hash, veiled: Boolean(veiled), letters, status, shared: Boolean(shared)};
  });
  return {pending: page.pending, cells};
}

/** Where an image is: at most 256 pixels wide, or 1,024. */
export const thumbUrl = (cell, i, hash) => `data/cells/${cell}/thumb/${i}.webp?v=${hash}`;
export const fullUrl = (cell, i, hash) => `data/cells/${cell}/full/${i}.webp?v=${hash}`;
