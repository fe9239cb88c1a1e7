// The heat map of schedules: learned or the grid's, a row for the pinned point, and numbers on hover.

function schedules(root) {
  const table = root.querySelector("table");
  const rows = [...table.tBodies[0].rows];
  const extra = table.createTFoot().appendChild(html("tr", { class: "extra" }, html("th", { scope: "row" }, "pinned")));
  extra.append(...Array.from({ length: data.layers }, () => html("td")));

  function paint(row, point) {
    [...row.cells].slice(1).forEach((cell, layer) => {
      const ratio = point ? point.keep[layer] : 0;
      cell.textContent = point ? whole(ratio) : "\u2013";
      cell.style.setProperty("--ratio", ratio);
      cell.classList.toggle("deep", ratio > 0.6);
      cell.dataset.tip = point ? `layer ${layer}: ${(100 * ratio).toFixed(1)} % of the visual tokens enter\n${point.name}` : "";
    });
    row.dataset.name = point ? point.name : "";
  }

  view(["schedules", "pin"], () => {
    let found = false;
    rows.forEach((row, place) => {
      const index = data.budgets[place][state.schedules];
      if (index !== null || state.schedules === "grid") paint(row, data.points[index]);
      const chosen = state.pin !== "" && row.dataset.name === state.pin;
      row.classList.toggle("chosen", chosen);
      found ||= chosen;
    });
    const pinned = found ? undefined : data.points.find((point) => point.name === state.pin);
    extra.hidden = !pinned;
    if (pinned) paint(extra, pinned);
  });
  table.addEventListener("pointermove", (event) => {
    const text = event.target.dataset.tip;
    if (text) showTip(event.clientX, event.clientY, text);
    else hideTip();
  });
  table.addEventListener("pointerleave", hideTip);
  table.addEventListener("click", (event) => {
    const name = event.target.closest("tr").dataset.name;
    if (name) pin(name);
  });
}

/** Keep ratio as a whole percentage; what is not nothing never reads as 0. */
const whole = (ratio) => (ratio > 0 && ratio < 0.005 ? "<1" : String(Math.floor(100 * ratio + 0.5)));
