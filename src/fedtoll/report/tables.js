// Tables: a header's button sorts by its column, and a button beneath saves the table as CSV.
const said = document.getElementById("said");
const key = (row, i) => row.cells[i].dataset.key ?? row.cells[i].textContent;

function sortBy(table, header) {
  const body = table.tBodies[0];
  const i = header.cellIndex;
  const words = header.dataset.words !== undefined;
  // Numbers begin with the largest: who pays most. The third time, the first order is back.
  const turns = words ? ["ascending", "descending", ""] : ["descending", "ascending", ""];
  const order = turns[(turns.indexOf(header.getAttribute("aria-sort") ?? "") + 1) % 3];
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  const rows = [...body.rows];
  rows.forEach((row, place) => (row.dataset.place ??= String(place)));
  const first = (row) => Number(row.dataset.place);
  const sign = order === "descending" ? -1 : 1;
  const compare = (a, b) => {
    if (!order) return 0;
    const [x, y] = [key(a, i), key(b, i)];
    if (words) return sign * x.localeCompare(y, undefined, { numeric: true });
    if (x === "" || y === "") return (x === "") - (y === ""); // undefined stays last, either way
    return sign * (Number(x) - Number(y));
  };
  rows.sort((a, b) => compare(a, b) || first(a) - first(b));
  body.append(...rows);
  if (order) header.setAttribute("aria-sort", order);
  const how = order ? `sorted by ${header.textContent.trim()}, ${order}` : "in its first order";
  said.textContent = `${table.caption.textContent.trim()}: ${how}`;
}

// The page holds each table's file compressed (gzip, base64), so that it stays small.
async function save(name, packed) {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
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
  const packed = document.getElementById(button.dataset.csv).textContent;
  button.addEventListener("click", () => save(button.dataset.name, packed));
}
document.documentElement.classList.add("scripted");
