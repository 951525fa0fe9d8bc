// Tables: a button in each header sorts by its column, and a button below saves the table as CSV.
const liveRegion = document.getElementById("status");
const key = (row, i) => row.cells[i].dataset.key ?? row.cells[i].textContent;

function sortBy(table, header) {
  const body = table.tBodies[0];
  const i = header.cellIndex;
  const isText = header.dataset.text !== undefined;
  // Numbers start with the largest: who pays most. The third click restores the original order.
  const orders = isText ? ["ascending", "descending", ""] : ["descending", "ascending", ""];
  const order = orders[(orders.indexOf(header.getAttribute("aria-sort") ?? "") + 1) % 3];
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  const rows = [...body.rows];
  rows.forEach((row, position) => (row.dataset.position ??= String(position)));
  const original = (row) => Number(row.dataset.position);
  const sign = order === "descending" ? -1 : 1;
  const compare = (a, b) => {
    if (!order) return 0;
    const [x, y] = [key(a, i), key(b, i)];
    if (isText) return sign * x.localeCompare(y, undefined, { numeric: true });
    if (x === "" || y === "") return (x === "") - (y === ""); // undefined stays last in both directions
    return sign * (Number(x) - Number(y));
  };
  rows.sort((a, b) => compare(a, b) || original(a) - original(b));
  body.append(...rows);
  if (order) header.setAttribute("aria-sort", order);
  const message = order ? `sorted by ${header.textContent.trim()}, ${order}` : "in its original order";
  liveRegion.textContent = `${table.caption.textContent.trim()}: ${message}`;
}

// The page stores each CSV file compressed (gzip, base64), to stay small.
async function save(name, encoded) {
  const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const text = await new Response(plain).arrayBuffer();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  link.download = `${name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.closest("table"), button.closest("th")));
}
for (const button of document.querySelectorAll("button[data-csv]")) {
  const encoded = document.getElementById(button.dataset.csv).textContent;
  button.addEventListener("click", () => save(button.dataset.name, encoded));
}
// A table that is wider than its place says so.
const regions = [...document.querySelectorAll(".scroll")];
function markWide() {
  for (const region of regions) {
    const wide = region.scrollWidth > region.clientWidth + 1;
    region.classList.toggle("scrolls", wide);
    region.previousElementSibling.hidden = !wide;
  }
}
markWide();
window.addEventListener("resize", markWide);
document.addEventListener("toggle", markWide, true);
document.documentElement.classList.add("scripted");
