// Everything that the page has a place for.

const place = (id) => document.getElementById(id);

readLink();
for (const control of document.querySelectorAll("select[data-state]")) {
  const key = control.dataset.state;
  control.addEventListener("change", () => set({ [key]: control.value }));
  view([key], () => { control.value = state[key]; });
}
for (const button of document.querySelectorAll("button[data-schedules]")) {
  const kind = button.dataset.schedules;
  button.addEventListener("click", () => set({ schedules: kind }));
  view(["schedules"], () => button.setAttribute("aria-pressed", state.schedules === kind));
}
for (const button of document.querySelectorAll("button[data-pin]")) button.addEventListener("click", () => pin(button.dataset.pin));

legend(place("legend"));
chart(place("frontier-plot"), { xKey: "cost", yKey: "quality", stairs: true, title: "Frontier" });
pinnedCard(place("pinned"));
view(["quality"], () => {
  place("better").textContent = data.qualities[state.quality].less ? "Down and to the left is better." : "Up and to the left is better.";
});
if (place("costs-plot")) {
  chart(place("costs-plot"), { xKey: "x", yKey: "y", stairs: false, title: "Costs" });
  view(["x", "y"], () => {
    const pair = [state.x, state.y].sort((a, b) => costs.indexOf(a) - costs.indexOf(b)).join(" ");
    place("tau").textContent = Object.hasOwn(data.tau, pair)
      ? `Kendall's tau ${minus(data.tau[pair].toFixed(2))} over all ${data.points.length} points`
      : "Kendall's tau needs two costs that differ from point to point";
  });
}
if (place("schedules")) schedules(place("schedules"));
if (place("slices-plot")) sliceBars(place("slices-plot"), place("slices-note"));
if (place("gallery")) pictures(place("gallery"));
if (place("curves")) curves(place("curves"));
document.documentElement.dataset.drawn = "yes";
