// The veil over visual tokens that do not enter the chosen layer.

/** Booleans from bits in base 64, the first the highest of its byte. */
function unpacked(text, count) {
  const bytes = atob(text);
  return Array.from({ length: count }, (_, index) => Boolean((bytes.charCodeAt(index >> 3) >> (7 - (index & 7))) & 1));
}

function pictures(root) {
  const [slider, said] = [root.querySelector("input"), root.querySelector("output")];
  const figures = [...root.querySelectorAll("figure")].map((figure, place) => {
    const { rows, columns, kept } = data.pictures[place];
    const veil = svg("path", { class: "veil" });
    figure.querySelector(".frame").append(svg("svg", { viewBox: `0 0 ${columns} ${rows}`, preserveAspectRatio: "none", "aria-hidden": "true" }, veil));
    const masks = kept.map(([layer, bits]) => [layer, unpacked(bits, rows * columns)]);
    return { veil, masks, columns, count: rows * columns, caption: figure.querySelector(".count") };
  });
  slider.addEventListener("input", () => set({ layer: slider.value }));
  view(["layer"], () => {
    const layer = Number(state.layer);
    slider.value = layer;
    said.textContent = `layer ${layer} of ${data.layers - 1}`;
    for (const { veil, masks, columns, count, caption } of figures) {
      const mask = masks.filter(([first]) => first <= layer).at(-1)?.[1];
      const dropped = mask ? mask.flatMap((kept, cell) => (kept ? [] : [cell])) : [];
      veil.setAttribute("d", dropped.map((cell) => `M${cell % columns},${Math.floor(cell / columns)}h1v1h-1z`).join(""));
      caption.textContent = `${count - dropped.length} of ${count} visual tokens enter`;
    }
  });
}
