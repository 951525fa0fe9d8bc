// Checks a page's names, roles, references, headings, tables and contrast; returns a list of faults.
(() => {
const faults = [];
const shown = (e) => e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length > 0;
const say = (what, e) => faults.push(`${what}: ${e.outerHTML.slice(0, 120)}`);
const all = (selector) => [...document.querySelectorAll(selector)];
const name = (e) => {
  const by = e.getAttribute("aria-labelledby");
  const of = by && by.split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join(" ");
  const content = e.matches("a, button, summary") ? e.textContent : ""; // only these are named by what they hold
  return (of || e.getAttribute("aria-label") || e.getAttribute("alt") || content).trim();
};

// Names: of all that can be focused, of pictures and of regions.
for (const e of all("a[href], button, summary, [tabindex], [role=img], [role=region], nav, section, img"))
  if (!name(e)) say("no name", e);
for (const e of all(".chart")) // Vega writes its own role and label on the element that it draws into
  if (e.getAttribute("role") !== "img" || !name(e) || name(e) === "Vega visualization") say("no name of its own", e);

// Roles: known ones, one of each landmark, and a region for everything that scrolls and can be focused.
for (const e of all("[role]"))
  if (!["img", "region", "status", "graphics-document", "graphics-object", "graphics-symbol"].includes(e.getAttribute("role")))
    say("unknown role", e);
for (const tag of ["main", "header", "nav", "h1"])
  if (all(`body ${tag}`).length !== 1) faults.push(`${all(`body ${tag}`).length} of ${tag}`);
if (!document.documentElement.lang) faults.push("no language");

// References: ids are unique and links inside the page lead somewhere.
const ids = all("[id]").filter((e) => !e.closest("svg")).map((e) => e.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`id twice: ${id}`);
for (const a of all("a[href^='#']"))
  if (!document.getElementById(decodeURIComponent(a.getAttribute("href").slice(1)))) say("leads nowhere", a);

// Headings descend one level at a time; tables have a caption, and headers with a scope.
const levels = all("h1, h2, h3, h4").map((h) => Number(h.tagName[1]));
levels.forEach((level, i) => { if (i && level - levels[i - 1] > 1) faults.push(`heading ${level} after ${levels[i - 1]}`); });
for (const t of all("table")) if (!t.caption || !t.caption.textContent.trim()) say("no caption", t);
for (const th of all("th")) if (!th.scope) say("no scope", th);

// Contrast (WCAG 2 AA): 4.5 to 1, or 3 to 1 for large text.
const parse = (colour) => colour.match(/[\d.]+/g).map(Number);
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (e) => {
  for (let at = e; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const seen = new Set();
let compared = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (seen.has(e) || !walker.currentNode.data.trim() || e.closest("svg, script, style, .visually-hidden, .skip") || !shown(e)) continue;
  seen.add(e);
  const style = getComputedStyle(e);
  const [a, b] = [light(parse(style.color)), light(behind(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  compared += 1;
  if (ratio < (large ? 3 : 4.5)) say(`contrast ${ratio.toFixed(2)}`, e);
}
if (compared < 100) faults.push(`only ${compared} texts compared`);
return [...new Set(faults)];
})()
