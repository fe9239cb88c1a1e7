// How the search went: one small chart per number.

function curves(root) {
  const { axis, curves: all } = data.convergence;
  for (const [name, values] of Object.entries(all)) {
    const plot = root.appendChild(html("figure", { class: "plot", "data-curve": name }));
    const draw = () => {
      const known = values.flatMap((value, step) => (value === null ? [] : [[step + 1, value]]));
      const width = Math.max(240, plot.clientWidth);
      const box = { left: 48, right: width - 12, top: 30, bottom: 168 };
      const picture = svg("svg", { viewBox: `0 0 ${width} 212`, role: "img", "aria-label": `${name} by ${axis}` });
      if (known.length) {
        const ends = [[1, Math.max(2, values.length)], range(known.map(([, value]) => value), 0.06)];
        const at = [scale(ends[0], [box.left, box.right]), scale(ends[1], [box.bottom, box.top])];
        const places = known.map(([step, value]) => `${at[0](step).toFixed(1)},${at[1](value).toFixed(1)}`);
        picture.append(
          axes(box, { ends: ends[0], at: at[0], label: axis }, { ends: ends[1], at: at[1], label: name }),
          svg("polyline", { class: "curve", points: places.join(" ") }),
          svg("circle", { class: "last", cx: at[0](known.at(-1)[0]), cy: at[1](known.at(-1)[1]), r: 3.5 }),
        );
        picture.addEventListener("pointermove", (event) => {
          const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse()).x;
          const [step, value] = known.reduce((a, b) => (Math.abs(at[0](b[0]) - x) < Math.abs(at[0](a[0]) - x) ? b : a));
          showTip(event.clientX, event.clientY, `${axis} ${step}: ${short(value)}`);
        });
        picture.addEventListener("pointerleave", hideTip);
      }
      plot.replaceChildren(picture);
    };
    draw();
    redrawOnResize(plot, draw);
  }
}
