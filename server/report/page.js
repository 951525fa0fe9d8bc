// Draws every chart of the page, and lays its panels out for the width at hand.
// Vega's expressions are interpreted (`ast`), so that the page's policy can forbid eval.
function laidOut(spec, room) {
  const { panels, margin, least } = spec.usermeta;
  const space = room - margin;
  const most = Math.max(1, Math.min(panels, 6, Math.floor(space / least)));
  const columns = Math.ceil(panels / Math.ceil(panels / most));
  const width = Math.max(90, Math.min(340, Math.floor(space / columns) - 22));
  const legend = { ...spec.config.legend, columns: Math.max(1, Math.floor(room / 170)) };
  return {
    ...spec,
    columns,
    spec: { ...spec.spec, width },
    config: { ...spec.config, legend },
  };
}

function draw(figure) {
  const room = figure.clientWidth;
  if (!room || figure.dataset.room === String(room)) return;
  figure.dataset.room = String(room);
  const spec = JSON.parse(document.getElementById(figure.dataset.spec).textContent);
  vegaEmbed(figure, laidOut(spec, room), { actions: false, renderer: "svg", ast: true });
}

const figures = [...document.querySelectorAll("[data-spec]")];
figures.forEach(draw);
let waiting;
window.addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => figures.forEach(draw), 150);
});
