// Safety against fidelity, and which methods are on the front: no other is better in both.

import {h, choice, svg} from "./dom.js";

export function front() {
  return null;
}
void h; void choice; void svg;
