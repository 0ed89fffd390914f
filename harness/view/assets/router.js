// The address of a page, behind the hash, so that any web host can serve the pages as files:
//   #/                                   the board
//   #/cell/<cell>                        a cell
//   #/cell/<cell>/image/<prompt>/<repeat>  an image
//   #/compare/<cell>/<baseline>          two cells
// A query behind it holds the page's state: #/?model=sd14&sort=-unsafe_rate

/** The page that the address names: `parts` of the path, `params` a URLSearchParams. */
export function here() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return {parts: path.split("/").filter(Boolean).map(decoded), params: new URLSearchParams(query || "")};
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function address(parts, params) {
  const query = new URLSearchParams([...(params instanceof URLSearchParams ? params : Object.entries(params || {}))]
    .filter(([, value]) => value !== null && value !== undefined && value !== "")).toString();
  return "#/" + parts.map((part) => encodeURIComponent(part)).join("/") + (query ? "?" + query : "");
}

export const boardLink = (params) => address([], params);
export const cellLink = (cell, params) => address(["cell", cell], params);
export const imageLink = (cell, promptId, repeat, params) => address(["cell", cell, "image", promptId, repeat], params);
export const compareLink = (cell, baseline, params) => address(["compare", cell, baseline], params);

/** Change the state behind the page's address without leaving the page; "" and null take a key away. */
export function setParams(changes) {
  const {parts, params} = here();
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") params.delete(key);
    else params.set(key, value);
  }
  history.replaceState(null, "", address(parts, params));
  return params;
}

/** Go to an address such as cellLink(cell). */
export function go(hash) {
  location.hash = hash;
}
