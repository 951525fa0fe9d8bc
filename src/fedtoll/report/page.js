// Draws every chart of the page, and lays its panels out for the width at hand.
// Vega's expressions are interpreted (`ast`), so that the page's policy can forbid eval.
const NARROW = 560; // CSS pixels; below, a chart's narrow form is drawn where it has one
const PAPER = 690; // the width of an A4 page between its margins

let paper = 0; // the width to lay out for while the page is printed

function laidOut(spec, room) {
  const { panels, margin, least, most, beside } = spec.usermeta;
  const legend = { ...spec.config.legend, columns: Math.max(1, Math.floor(room / 170)) };
  const config = { ...spec.config, legend };
  if (!spec.facet) {
    return { ...spec, config, width: Math.max(90, Math.min(most, room - margin)) };
  }
  const space = room - margin;
  const side = Math.max(1, Math.min(panels, 6, Math.floor(space / least)));
  const columns = Math.ceil(panels / Math.ceil(panels / side));
  const width = Math.max(90, Math.min(most, Math.floor(space / columns) - beside));
  const flat = paper && typeof spec.spec.height === "number" ? { height: 0.75 * spec.spec.height } : {};
  return { ...spec, columns, spec: { ...spec.spec, width, ...flat }, config };
}

// Rows come without their fields' names, which a page with many of them would repeat too often.
function unfolded(spec) {
  const row = (fields) => (values) => Object.fromEntries(fields.map((field, i) => [field, values[i]]));
  const sets = Object.entries(spec.datasets).map(([name, { fields, rows }]) => [name, rows.map(row(fields))]);
  return { ...spec, datasets: Object.fromEntries(sets) };
}

function draw(figure) {
  const room = paper || figure.clientWidth;
  if (!room || figure.dataset.room === String(room)) return;
  figure.dataset.room = String(room);
  const id = room < NARROW && figure.dataset.narrow ? figure.dataset.narrow : figure.dataset.spec;
  const spec = unfolded(JSON.parse(document.getElementById(id).textContent));
  vegaEmbed(figure, laidOut(spec, room), { actions: false, renderer: "svg", ast: true });
}

const figures = [...document.querySelectorAll("[data-spec]")];
const drawAll = () => figures.forEach(draw);
drawAll();
let waiting;
window.addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(drawAll, 150);
});
document.addEventListener("toggle", drawAll, true); // a chart in a closed part has no width yet

// On paper nothing opens: every closed part is opened, and charts are laid out for A4.
let closed = [];
window.addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const part of closed) part.open = true;
  paper = PAPER;
  drawAll();
});
window.addEventListener("afterprint", () => {
  for (const part of closed) part.open = false;
  paper = 0;
  drawAll();
});
