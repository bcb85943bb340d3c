"use strict";
// Everything here is an extra: without it the page shows the same.

function sortValue(cell) {
  const text = cell ? (cell.dataset.v ?? cell.textContent.trim()) : "";
  const number = Number(text);
  return { text, number: text === "" || Number.isNaN(number) ? null : number };
}

function compareCells(a, b) {
  if (a.number !== null && b.number !== null) return a.number - b.number;
  if (a.number !== null || b.number !== null) return a.number !== null ? -1 : 1;
  return a.text.localeCompare(b.text, undefined, { numeric: true });
}

function sortTable(header, index) {
  const table = header.closest("table");
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, row => ({ row, value: sortValue(row.cells[index]) }));
  rows.sort((a, b) => {
    if (a.value.text === "" || b.value.text === "") return (a.value.text === "") - (b.value.text === "");
    return compareCells(a.value, b.value) * (descending ? -1 : 1);
  });
  body.append(...rows.map(one => one.row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells).forEach((header, position) => {
    const index = Number(header.dataset.column ?? position);
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortTable(header, index));
    header.append(button);
  });
}

// A table that goes on to the right fades there, and says so, until it was scrolled to its end.
for (const box of document.querySelectorAll(".scroll")) {
  const hint = document.createElement("div");
  hint.className = "more";
  hint.setAttribute("aria-hidden", "true");
  hint.textContent = "more to the right →";
  box.before(hint);
  const show = () => {
    const more = box.scrollLeft + box.clientWidth < box.scrollWidth - 1;
    box.toggleAttribute("data-more", more);
    hint.hidden = box.scrollWidth <= box.clientWidth + 1;
    hint.style.visibility = more ? "" : "hidden";
  };
  box.addEventListener("scroll", show, { passive: true });
  new ResizeObserver(show).observe(box);
  show();
}

for (const place of document.querySelectorAll("[data-filter]")) {
  const rows = document.getElementById(place.dataset.filter).tBodies[0].rows;
  const label = document.createElement("label");
  const input = document.createElement("input");
  label.className = "filter";
  input.type = "search";
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  });
  label.append("Only rows with ", input);
  place.append(label);
}

const dialog = document.createElement("dialog");
dialog.addEventListener("click", () => dialog.close());
document.body.append(dialog);
for (const image of document.querySelectorAll("figure img")) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", "Enlarge: " + image.alt);
  image.replaceWith(button);
  button.append(image);
  button.addEventListener("click", () => {
    const large = image.cloneNode();
    large.removeAttribute("width");
    large.removeAttribute("height");
    dialog.replaceChildren(large);
    dialog.showModal();
  });
}

function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  const folded = target && target.closest("details");
  if (folded) folded.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();

const unfolded = [];
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:not([open]):not([data-long])")) {
    folded.open = true;
    unfolded.push(folded);
  }
});
addEventListener("afterprint", () => {
  for (const folded of unfolded.splice(0)) folded.open = false;
});
