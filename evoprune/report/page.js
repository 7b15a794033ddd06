"use strict";
const valueOf = (row, i) => {
  const cell = row.cells[i];
  return cell.dataset.key === undefined ? cell.textContent : Number(cell.dataset.key);
};
const compare = (a, b) => {
  const numbers = typeof a === "number" && typeof b === "number";
  return numbers ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, i) => head.firstElementChild.addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const each of heads) each.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    rows.sort((a, b) => sign * compare(valueOf(a, i), valueOf(b, i)));
    body.append(...rows);
  }));
}
const watched = document.body.dataset.watched;
if (watched !== undefined) {
  const state = document.getElementById("state");
  state.textContent = "refreshed while the run continues";
  const timer = setInterval(async () => {
    try {
      const answer = await fetch("/version", { cache: "no-store" });
      if ((await answer.text()) !== watched && answer.ok) location.reload();
    } catch {
      state.textContent = "the command that serves this page has ended";
      clearInterval(timer);
    }
  }, 2000);
}
