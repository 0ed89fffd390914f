// Labels beside points, each where it covers least of the others.

const LETTER = 6.6, TALL = 14;

function boxes(label, width) {
  return [
    {x: label.x + 10, y: label.y - 8, anchor: "start", left: label.x + 10, top: label.y - 19},
    {x: label.x + 10, y: label.y + 17, anchor: "start", left: label.x + 10, top: label.y + 6},
    {x: label.x - 10, y: label.y - 8, anchor: "end", left: label.x - 10 - width, top: label.y - 19},
    {x: label.x - 10, y: label.y + 17, anchor: "end", left: label.x - 10 - width, top: label.y + 6},
    {x: label.x, y: label.y - 13, anchor: "middle", left: label.x - width / 2, top: label.y - 24},
    {x: label.x, y: label.y + 23, anchor: "middle", left: label.x - width / 2, top: label.y + 12},
  ];
}

const covered = (a, b) => Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) * Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));

/** Where to write labels {x, y, text} so that they keep clear of `spots` and of each other; one that cannot is left out. */
export function spread(labels, spots, frame) {
  const taken = spots.map((spot) => ({left: spot.x - 7, right: spot.x + 7, top: spot.y - 7, bottom: spot.y + 7}));
  const placed = [];
  for (const label of labels) {
    const width = LETTER * label.text.length;
    const costs = boxes(label, width).map((place, i) => {
      const box = {left: place.left, right: place.left + width, top: place.top, bottom: place.top + TALL};
      const outside = Math.max(0, frame.left - box.left) + Math.max(0, box.right - frame.width + 4) + Math.max(0, frame.top - 12 - box.top) + Math.max(0, box.bottom - frame.height + frame.bottom);
      return {place, box, cost: 60 * outside + taken.reduce((sum, other) => sum + covered(box, other), 0) + i};
    }).sort((a, b) => a.cost - b.cost);
    if (costs[0].cost > (labels.length > 8 ? 60 : 400)) continue;
    taken.push(costs[0].box);
    placed.push({...costs[0].place, text: label.text});
  }
  return placed;
}
