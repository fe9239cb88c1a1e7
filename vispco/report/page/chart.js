// A scatter of all points, with details on hover and arrow keys, and a pin on click.

/** `xKey` and `yKey` name the entries of the state that choose the axes; `stairs` whether y is a quality. */
function chart(plot, { xKey, yKey, stairs, title }) {
  let marks = []; // {x, y, point, node}
  let hot = null;
  let ring = null; // around the point under the pointer
  let ringed = null; // around the pinned one

  function draw() {
    const x = quantity(state[xKey]);
    const y = quantity(state[yKey]);
    const shown = data.groups.filter((group) => !state.hide.has(group.label));
    const layers = shown.map((group) => {
      const rows = group.members.map((index) => [x.of(data.points[index]), y.of(data.points[index]), index]);
      if (!stairs || !group.line) return { group, front: rows, rest: [] };
      const front = nonDominated(rows, y.less);
      const taken = new Set(front.map(([a, b]) => `${a} ${b}`));
      return { group, front, rest: group.rest ? rows.filter(([a, b]) => !taken.has(`${a} ${b}`)) : [] };
    });
    const all = layers.flatMap(({ front, rest }) => [...front, ...rest]);
    const width = Math.max(280, plot.clientWidth);
    const height = Math.round(Math.min(470, Math.max(300, 0.62 * width)));
    const box = { left: 46, right: width - 14, top: 32, bottom: height - 50 };
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "group", "aria-label": `${title}: ${y.axis} over ${x.axis}. Arrow keys go from point to point, Enter pins one.` });
    marks = [];
    hot = null;
    if (all.length) {
      const ends = [range(all.map((row) => row[0]), 0.04), range(all.map((row) => row[1]), 0.07)];
      const at = [scale(ends[0], [box.left, box.right]), scale(ends[1], [box.bottom, box.top])];
      picture.append(axes(box, { ends: ends[0], at: at[0], label: x.axis }, { ends: ends[1], at: at[1], label: y.axis }));
      picture.append(stairs ? level(shown, y, at[1], ends[1], box) : diagonal(at, ends));
      for (const { group, front, rest } of layers.reverse()) picture.append(series(group, front, rest, at)); // the first lies on top
    } else {
      picture.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "every series is switched off"));
    }
    if (stairs && data.warning) picture.append(svg("text", { class: "warning", x: box.left + 8, y: box.top + 16 }, data.warning));
    ring = picture.appendChild(svg("circle", { class: "ring", r: 9 }));
    ringed = picture.appendChild(svg("circle", { class: "pin", r: 10 }));
    ring.setAttribute("visibility", "hidden");
    listen(picture);
    plot.replaceChildren(picture);
    markPinned();
  }

  function markPinned() {
    const pinned = marks.find((mark) => mark.point.name === state.pin);
    fill(ringed, pinned ? { cx: pinned.x, cy: pinned.y, visibility: "visible" } : { visibility: "hidden" }, []);
  }

  function series(group, front, rest, at) {
    const places = front.map(([a, b]) => [at[0](a), at[1](b)]);
    const node = svg("g", { class: "series", "data-label": group.label });
    if (stairs && group.line && places.length > 1) {
      node.append(svg("path", { class: "stairs", d: staircase(places), stroke: group.color, "stroke-width": group.width, "stroke-dasharray": DASHES[group.line] }));
    }
    for (const [rows, hollow] of [[rest, true], [front, false]]) {
      for (const [a, b, index] of rows) {
        const mark = { x: at[0](a), y: at[1](b), point: data.points[index] };
        const shape = node.appendChild(marker(group, mark.x, mark.y, hollow));
        fill(shape, { class: hollow ? "dominated" : "front", "data-name": mark.point.name }, []);
        marks.push(mark);
      }
    }
    return node;
  }

  /** The unpruned model's quality with its interval: what pruning is measured against. */
  function level(shown, y, at, [low, high], box) {
    const node = svg("g", { class: "level" });
    const point = data.unpruned === null ? null : data.points[data.unpruned];
    if (!point || !shown.some((group) => group.members.includes(data.unpruned))) return node;
    if (point.ends && state[yKey] === "score" && point.ends[0] !== null) {
      const [bottom, top] = point.ends.map((end) => at(Math.min(high, Math.max(low, 100 * end))));
      node.append(svg("rect", { x: box.left, width: box.right - box.left, y: top, height: bottom - top }));
    }
    node.append(svg("line", { x1: box.left, x2: box.right, y1: at(y.of(point)), y2: at(y.of(point)) }));
    return node;
  }

  /** Where both costs are saved alike. */
  function diagonal(at, [[left, right], [bottom, top]]) {
    const [from, to] = [Math.max(left, bottom), Math.min(right, top)];
    return svg("line", { class: "diagonal", x1: at[0](from), y1: at[1](from), x2: at[0](to), y2: at[1](to), visibility: from < to ? null : "hidden" });
  }

  function point(mark, picture) {
    hot = mark;
    if (!mark) {
      ring.setAttribute("visibility", "hidden");
      return hideTip();
    }
    fill(ring, { cx: mark.x, cy: mark.y, visibility: "visible" }, []);
    const spot = new DOMPoint(mark.x, mark.y).matrixTransform(picture.getScreenCTM());
    showTip(spot.x, spot.y, ...details(mark.point));
  }

  function listen(picture) {
    const nearest = (event) => {
      const spot = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
      let best = null;
      let near = 26;
      for (const mark of marks) {
        const far = Math.hypot(mark.x - spot.x, mark.y - spot.y);
        if (far < near) [best, near] = [mark, far];
      }
      return best;
    };
    picture.addEventListener("pointermove", (event) => point(nearest(event), picture));
    picture.addEventListener("pointerleave", () => point(null));
    picture.addEventListener("blur", () => point(null));
    picture.addEventListener("click", (event) => {
      const mark = nearest(event);
      if (mark) pin(mark.point.name);
    });
    picture.addEventListener("keydown", (event) => {
      const order = [...marks].sort((a, b) => a.x - b.x || b.y - a.y);
      const here = order.indexOf(hot);
      const moves = { ArrowRight: here + 1, ArrowLeft: here < 0 ? order.length - 1 : here - 1, Home: 0, End: order.length - 1 };
      if (Object.hasOwn(moves, event.key) && order.length) {
        point(order[(moves[event.key] + order.length) % order.length], picture);
      } else if ((event.key === "Enter" || event.key === " ") && hot) {
        pin(hot.point.name);
      } else if (event.key === "Escape") {
        if (state.pin) pin(state.pin);
        point(null);
      } else {
        return;
      }
      event.preventDefault();
    });
  }

  view([xKey, yKey, "hide"], draw);
  view(["pin"], markPinned);
  redrawOnResize(plot, draw);
}

/** Draw again when the width changes, and no more often than that: drawing changes the height. */
function redrawOnResize(plot, draw) {
  let width = plot.clientWidth;
  new ResizeObserver(() => {
    if (plot.clientWidth === width || !plot.clientWidth) return;
    width = plot.clientWidth;
    draw();
  }).observe(plot);
}
