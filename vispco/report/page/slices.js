// Bars of one configuration on every slice beside the unpruned model's, with intervals, and the paired difference.

function sliceBars(plot, note) {
  const { rows, unpruned, bars: all } = data.slices;

  function draw() {
    const chosen = all[state.slices];
    const width = Math.max(280, plot.clientWidth);
    const narrow = width < 620;
    const [pitch, top, left] = [narrow ? 62 : 46, 30, narrow ? 4 : Math.min(200, 30 + 7.5 * Math.max(...rows.map(([name]) => name.length)))];
    const middle = chosen.changes ? left + (width - left) * (narrow ? 0.6 : 0.64) : width - 12;
    const height = top + rows.length * pitch + 4;
    const at = scale([0, 1], [left, middle - 56]);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `accuracy of ${state.slices} on every slice; the numbers are in the table below` });
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      picture.append(
        svg("line", { class: "grid", x1: at(share), x2: at(share), y1: top - 6, y2: height }),
        svg("text", { class: "tick", x: at(share), y: top - 12, "text-anchor": "middle" }, `${100 * share}${share === 1 ? " %" : ""}`),
      );
    }
    const ends = chosen.changes && range([0, ...chosen.changes.flat().filter((end) => end !== null)], 0.08);
    const beside = chosen.changes && scale(ends, [middle + 4, width - 8]);
    if (beside) {
      const [marks, fine] = ticks(100 * ends[0], 100 * ends[1], 3);
      for (const value of marks) {
        picture.append(
          svg("line", { class: value ? "grid" : "zero", x1: beside(value / 100), x2: beside(value / 100), y1: top - 6, y2: height }),
          svg("text", { class: "tick", x: beside(value / 100), y: top - 12, "text-anchor": "middle" }, `${value > 0 ? "+" : ""}${minus(value.toFixed(fine))}${value ? "" : " pp"}`),
        );
      }
    }
    rows.forEach(([name, samples], row) => {
      const y = top + row * pitch + (narrow ? 18 : 4);
      const group = svg("g", { "data-row": name, class: row === chosen.worst ? "worst" : row ? "" : "whole" });
      const says = [`${name}, n = ${samples}${samples === 1 ? ", too few for an interval" : ""}`];
      const label = [narrow ? `${name}, n = ${samples}` : name];
      if (row === chosen.worst) label.unshift("\u25bc");
      group.append(svg("text", narrow ? { x: left, y: y - 4 } : { x: left - 10, y: y + 15, "text-anchor": "end" }, label.join(" ")));
      if (!narrow) group.append(svg("text", { class: "tick", x: left - 10, y: y + 30, "text-anchor": "end" }, `n = ${samples}`));
      for (const [means, kind, shift] of [[unpruned, "unpruned", 0], [chosen.scores, "pruned", 17]]) {
        if (!means) continue;
        says.push(`${kind === "pruned" ? state.slices : kind}: ${between(means[row])}`);
        const [value, low, high] = means[row];
        group.append(svg("rect", { class: kind, x: at(0), width: Math.max(1, at(value) - at(0)), y: y + shift, height: 14, rx: 2 }));
        if (low !== null) group.append(whisker(at(low), at(high), y + shift + 7));
        group.append(svg("text", { class: "tick", x: at(high ?? value) + 6, y: y + shift + 11 }, (100 * value).toFixed(1)));
      }
      if (beside) {
        const [value, low, high] = chosen.changes[row];
        says.push(`change: ${changed(chosen.changes[row])}`);
        if (low !== null) group.append(whisker(beside(low), beside(high), y + 16));
        group.append(svg("circle", { class: "change", cx: beside(value), cy: y + 16, r: 4.5 }));
      }
      group.append(svg("rect", { class: "hit", x: 0, y: top + row * pitch, width, height: pitch }));
      group.addEventListener("pointermove", (event) => showTip(event.clientX, event.clientY, says.join("\n")));
      group.addEventListener("pointerleave", hideTip);
      group.setAttribute("aria-label", says.join("; "));
      picture.append(group);
    });
    plot.replaceChildren(picture);
    note.replaceChildren(...summary(chosen, rows));
  }

  view(["slices"], draw);
  redrawOnResize(plot, draw);
}

const whisker = (low, high, y) => svg("path", { class: "whisker", d: `M${low.toFixed(1)},${y - 4}v8m0,-4H${high.toFixed(1)}m0,-4v8` });

/** The mean beside the slice that scores lowest and the one that loses most. */
function summary({ scores, changes, worst }, rows) {
  const say = (row) => `${rows[row][0]} ${between(scores[row])}`;
  const parts = [["all", `${between(scores[0])}${changes ? `, change ${changed(changes[0])}` : ""}`]];
  const slices = rows.map((_, row) => row).slice(1);
  if (slices.length) parts.push(["lowest slice", say(slices.reduce((a, b) => (scores[b][0] < scores[a][0] ? b : a)))]);
  if (worst !== null) parts.push(["loses most", `${rows[worst][0]} ${changed(changes[worst])}, n = ${rows[worst][1]}`]);
  return parts.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value)));
}
