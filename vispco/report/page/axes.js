// Axes with round numbers.

/** Multiples of 1, 2 or 5 times a power of ten between two numbers, about `count` of them. */
function ticks(low, high, count) {
  const raw = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= raw * 0.999);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-9 * step; index += 1) found.push(index * step);
  return [found, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))];
}

/** Ends of an axis around numbers, with a margin. */
function range(values, margin) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = high > low ? margin * (high - low) : Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

/** From numbers between `low` and `high` to places between `from` and `to`. */
const scale = ([low, high], [from, to]) => (value) => from + ((value - low) / (high - low)) * (to - from);

/**
 * Grid lines, numbers and names of two axes.
 * `box` is {left, right, top, bottom} in pixels, `x` and `y` are {ends, at, label}.
 */
function axes(box, x, y) {
  const group = svg("g", { class: "axes", "aria-hidden": "true" });
  const [across, fine] = ticks(...x.ends, Math.round(3 + (box.right - box.left) / 130));
  for (const value of across) {
    const at = x.at(value);
    group.append(
      svg("line", { x1: at, x2: at, y1: box.top, y2: box.bottom }),
      svg("text", { x: at, y: box.bottom + 17, "text-anchor": "middle" }, minus(value.toFixed(fine))),
    );
  }
  const [up, exact] = ticks(...y.ends, Math.max(3, Math.floor((box.bottom - box.top) / 55)));
  for (const value of up) {
    const at = y.at(value);
    group.append(
      svg("line", { x1: box.left, x2: box.right, y1: at, y2: at }),
      svg("text", { x: box.left - 8, y: at + 4, "text-anchor": "end" }, minus(value.toFixed(exact))),
    );
  }
  group.append(
    svg("path", { class: "frame", d: `M${box.left},${box.top}V${box.bottom}H${box.right}` }),
    svg("text", { class: "name", x: (box.left + box.right) / 2, y: box.bottom + 38, "text-anchor": "middle" }, x.label),
    svg("text", { class: "name", x: 0, y: box.top - 12 }, y.label),
  );
  return group;
}
