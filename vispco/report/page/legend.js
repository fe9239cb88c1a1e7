// Markers, and the legend that switches series off and on.

const SHAPES = {
  "o": (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
  "s": (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}Z`,
  "D": (r) => `M0,${-1.35 * r}L${1.35 * r},0L0,${1.35 * r}L${-1.35 * r},0Z`,
  "^": (r) => `M0,${-r}L${r},${r}H${-r}Z`,
  "v": (r) => `M0,${r}L${r},${-r}H${-r}Z`,
  ">": (r) => `M${r},0L${-r},${r}V${-r}Z`,
  "P": (r) => `M${-r / 3},${-r}h${r / 1.5}v${r / 1.5}h${r / 1.5}v${r / 1.5}h${-r / 1.5}v${r / 1.5}h${-r / 1.5}v${-r / 1.5}h${-r / 1.5}v${-r / 1.5}h${r / 1.5}Z`,
  "X": (r) => `${SHAPES.P(r)}`,
  "*": (r) => [...Array(10).keys()].map((k) => {
    const reach = k % 2 ? 0.4 * r : r;
    return `${k ? "L" : "M"}${(reach * Math.sin((k * Math.PI) / 5)).toFixed(2)},${(-reach * Math.cos((k * Math.PI) / 5)).toFixed(2)}`;
  }).join("") + "Z",
};
const DASHES = { "--": "6 4", "-.": "7 3 1.5 3" };

/** A marker at a place; `hollow` for dominated points, and a dot where the series has none. */
function marker(group, x, y, hollow) {
  const radius = Math.max(2, group.size / 1.5);
  const turn = group.marker === "X" ? " rotate(45)" : "";
  return svg("path", {
    d: (SHAPES[group.marker] ?? SHAPES.o)(group.marker ? radius : 2),
    transform: `translate(${x.toFixed(1)},${y.toFixed(1)})${turn}`,
    fill: hollow ? "none" : group.color,
    stroke: hollow ? group.color : "var(--card)",
    "stroke-width": hollow ? 1.4 : radius > 3 ? 0.9 : 0.4,
  });
}

function legend(root) {
  view(["hide"], () => {
    const buttons = data.groups.map((group) => {
      const shown = !state.hide.has(group.label);
      const button = html("button", { type: "button", "aria-pressed": shown },
        svg("svg", { width: 28, height: 16, "aria-hidden": "true" },
          svg("line", { x1: 1, x2: 27, y1: 8, y2: 8, stroke: group.line ? group.color : "none", "stroke-width": group.width, "stroke-dasharray": DASHES[group.line] }),
          group.marker ? marker(group, 14, 8) : null),
        group.label);
      button.addEventListener("click", () => {
        const hide = new Set(state.hide);
        if (!hide.delete(group.label)) hide.add(group.label);
        set({ hide });
        [...root.children].find((each) => each.textContent === group.label).focus();
      });
      return button;
    });
    root.replaceChildren(...buttons);
  });
}
