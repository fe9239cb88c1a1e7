// The frontier of a series for any cost and quality.

/**
 * Rows [x, y, ...] that no other dominates, by increasing x: less x is better, and more y, or less where `less` says so.
 * Of rows that are equal in both the first stays.
 */
function nonDominated(rows, less) {
  const loss = (row) => (less ? row[1] : -row[1]);
  const sorted = [...rows].sort((a, b) => a[0] - b[0] || loss(a) - loss(b)); // sorting is stable
  const front = [];
  let best = Infinity;
  for (const row of sorted) {
    if (loss(row) < best) {
      front.push(row);
      best = loss(row);
    }
  }
  return front;
}

/** Path of a staircase: between two points the quality of the cheaper one holds. */
function staircase(places) {
  return places.map(([x, y], index) => (index ? `H${x.toFixed(1)}V${y.toFixed(1)}` : `M${x.toFixed(1)},${y.toFixed(1)}`)).join("");
}
