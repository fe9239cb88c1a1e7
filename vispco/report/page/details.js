// What is known of one point: beside the pointer while it is near, below the chart once it is pinned.

const tip = document.body.appendChild(html("div", { id: "tip", role: "status", hidden: "" }));

/** One bar per layer, as high as the part of visual tokens that enters it. */
function strip(point) {
  const bars = point.keep.map((ratio) => html("i", { style: `height: ${(100 * ratio).toFixed(1)}%` }));
  return html("div", { class: "strip", role: "img", "aria-label": `kept by layer, %: ${point.text}` }, ...bars);
}

function details(point) {
  const rows = Object.keys(data.qualities).map((key) => {
    const { name, of, text } = quantity(key);
    return [name, key === "score" && point.ends ? between([point.quality.score, ...point.ends]) : text(of(point))];
  });
  for (const key of costs) rows.push([data.costs[key], quantity(key).text(point.costs[key])]);
  return [
    html("strong", {}, point.name),
    html("dl", {}, ...rows.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, value)])),
    strip(point),
    html("small", {}, `kept by layer, %: ${point.text}`),
  ];
}

/** Show content beside a place in the window. */
function showTip(x, y, ...content) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const left = x + 16 + tip.offsetWidth < innerWidth ? x + 16 : x - 16 - tip.offsetWidth;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(4, Math.min(y - tip.offsetHeight / 2, innerHeight - tip.offsetHeight - 8))}px`;
}

function hideTip() {
  tip.hidden = true;
}

/** The pinned point, with its slices. */
function pinnedCard(root) {
  view(["pin"], () => {
    const point = data.points.find((each) => each.name === state.pin);
    root.hidden = !point;
    if (!point) return root.replaceChildren();
    const slices = Object.entries(point.slices).map(([name, score]) => `${name} ${percent(score)}`);
    const close = html("button", { type: "button", class: "plain" }, "unpin");
    close.addEventListener("click", () => pin(point.name));
    const count = point.samples === 1 ? "1 sample" : `${point.samples} samples`;
    root.replaceChildren(
      html("div", { class: "head" }, html("span", {}, `pinned, ${count}, selector ${point.selector}`), close),
      ...details(point),
      html("small", {}, slices.length ? `slices: ${slices.join(", ")}` : ""),
    );
  });
}
