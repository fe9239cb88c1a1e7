// Elements and numbers. Text from the data only ever becomes text nodes and attribute values, never markup.

const data = JSON.parse(document.getElementById("payload").textContent);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const minus = (text) => text.replace("-", "\u2212");
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const signed = (value) => minus(`${value < 0 ? "" : "+"}${(100 * value).toFixed(1)}`);
const short = (value) => minus(String(Number(value.toPrecision(3))));

/** "72.0 % [63.1, 80.4]"; without an interval where one sample alone is behind it. */
const between = ([value, low, high]) =>
  low === null ? percent(value) : `${percent(value)} [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`;
const changed = ([value, low, high]) =>
  `${signed(value)} pp${low === null ? "" : ` [${signed(low)}, ${signed(high)}]`}`;

/** What a cost or quality is called, how it is read off a point and written, and whether less of it is better. */
function quantity(key) {
  if (Object.hasOwn(data.costs, key)) {
    const name = data.costs[key];
    return { name, axis: `${name}, fraction of unpruned`, less: true, of: (point) => point.costs[key], text: (value) => value.toFixed(3) };
  }
  const { name, less } = data.qualities[key];
  const share = key === "score";
  return {
    name, less,
    axis: `${name} on ${data.split} split${share ? ", %" : ""}`,
    of: (point) => point.quality[key] * (share ? 100 : 1),
    text: share ? (value) => `${value.toFixed(1)} %` : short,
  };
}
