// What is shown, kept in the address behind "#", so that a view can be linked to: report.html#cost=kv&pin=learned b=0.5

const costs = Object.keys(data.costs);
const bars = data.slices ? Object.keys(data.slices.bars) : [];
const names = new Set(data.points.map((point) => point.name));
const labels = new Set(data.groups.map((group) => group.label));

/** First value of every key, and which others are legal. Whatever else an address says is passed over. */
const keys = {
  cost: [data.cost, (value) => costs.includes(value)],
  quality: [data.quality, (value) => Object.hasOwn(data.qualities, value)],
  x: [costs[0], (value) => costs.includes(value)],
  y: [["latency", "kv", costs[1]].find((cost) => costs.includes(cost)) ?? costs[0], (value) => costs.includes(value)],
  schedules: ["learned", (value) => value === "grid" && data.budgets.some((row) => row.grid !== null)],
  slices: [bars[Math.floor((data.budgets.length - 1) / 2)] ?? bars[0] ?? "", (value) => bars.includes(value)],
  layer: [String(firstCut()), (value) => /^\d+$/.test(value) && Number(value) < data.layers],
  pin: ["", (value) => names.has(value)],
};
const state = { hide: new Set() };
const views = [];

/** The layer that pictures begin with: the first that not all tokens enter, halfway through the cuts. */
function firstCut() {
  const cuts = data.pictures.flatMap((picture) => picture.kept.map(([layer]) => layer)).sort((a, b) => a - b);
  return cuts.length ? cuts[Math.floor((cuts.length - 1) / 2)] : 0;
}

function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  for (const [key, [first, legal]] of Object.entries(keys)) {
    const value = link.get(key);
    state[key] = value !== null && legal(value) ? value : first;
  }
  state.hide = new Set(link.getAll("hide").filter((label) => labels.has(label)));
  if (bars.includes(state.pin) && !link.has("slices")) state.slices = state.pin;
}

function writeLink() {
  const link = new URLSearchParams();
  for (const [key, [first]] of Object.entries(keys)) if (state[key] !== first) link.set(key, state[key]);
  for (const label of state.hide) link.append("hide", label);
  const text = link.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

/** Call `draw` now and again, whenever one of `wanted` changes. */
function view(wanted, draw) {
  views.push([wanted, draw]);
  draw();
}

function set(changes) {
  Object.assign(state, changes);
  writeLink();
  for (const [wanted, draw] of views) if (wanted.some((key) => key in changes)) draw();
}

/** Pin a point, or no longer: its schedule is added to the heat map and its slices are shown. */
function pin(name) {
  if (state.pin === name) return set({ pin: "" });
  set(bars.includes(name) ? { pin: name, slices: name } : { pin: name });
}

/** Show what the address says. */
function follow() {
  readLink();
  for (const [, draw] of views) draw();
}

addEventListener("hashchange", follow);
