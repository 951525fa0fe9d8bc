// Draws every chart of the page, with its panels laid out for the available width.
// Vega interprets its expressions (`ast`), so that the page's policy can forbid eval.
const NARROW = 560; // CSS pixels; on narrower screens a chart's narrow form is drawn, if it has one
const PAPER = 690; // the width of an A4 page between its margins

let paper = 0; // the layout width while the page is being printed, else 0

function laidOut(spec, available) {
  const { panels, margin, min_width: min, max_width: max, gap } = spec.usermeta;
  const legend = { ...spec.config.legend, columns: Math.max(1, Math.floor(available / 170)) };
  const config = { ...spec.config, legend };
  if (!spec.facet) {
    return { ...spec, config, width: Math.max(90, Math.min(max, available - margin)) };
  }
  const space = available - margin;
  const fitting = Math.max(1, Math.min(panels, 6, Math.floor(space / min)));
  const columns = Math.ceil(panels / Math.ceil(panels / fitting));
  const width = Math.max(90, Math.min(max, Math.floor(space / columns) - gap));
  const height = paper && typeof spec.spec.height === "number" ? { height: 0.75 * spec.spec.height } : {};
  return { ...spec, columns, spec: { ...spec.spec, width, ...height }, config };
}

// A data set names its fields once, which keeps the page small; Vega wants them in every row.
function expanded(spec) {
  const toRow = (fields) => (values) => Object.fromEntries(fields.map((field, i) => [field, values[i]]));
  const datasets = Object.entries(spec.datasets).map(([name, { fields, rows }]) => [name, rows.map(toRow(fields))]);
  return { ...spec, datasets: Object.fromEntries(datasets) };
}

function draw(figure) {
  const available = paper || figure.clientWidth;
  if (!available || figure.dataset.width === String(available)) return;
  figure.dataset.width = String(available);
  const id = available < NARROW && figure.dataset.narrow ? figure.dataset.narrow : figure.dataset.spec;
  const spec = expanded(JSON.parse(document.getElementById(id).textContent));
  // Into a child: Vega would replace the figure's role and label, which say in words what it shows.
  const canvas = figure.firstElementChild ?? figure.appendChild(document.createElement("div"));
  vegaEmbed(canvas, laidOut(spec, available), { actions: false, renderer: "svg", ast: true });
}

const figures = [...document.querySelectorAll("[data-spec]")];
const drawAll = () => figures.forEach(draw);
drawAll();
let timer;
window.addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(drawAll, 150);
});
document.addEventListener("toggle", drawAll, true); // a chart in a closed <details> has no width until it opens

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
