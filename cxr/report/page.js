"use strict";
// Tables sort by a click on a heading, or on a phone, where headings are hidden, by a list above the table.
// Without this script the page shows the same tables in the order of the report.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const inOrder = Array.from(body.rows);
  const heads = Array.from(table.querySelectorAll("th[data-column]"));
  if (inOrder.length < 2) continue;

  const cell = (row, head) => row.cells[Number(head.dataset.column)];
  const isNumber = (head) => inOrder.some((row) => cell(row, head).dataset.value !== undefined);
  const compare = (a, b, head) => {
    if (!isNumber(head)) return cell(a, head).textContent.localeCompare(cell(b, head).textContent, "en", { numeric: true });
    return Number(cell(a, head).dataset.value) - Number(cell(b, head).dataset.value);
  };
  const isMissing = (row, head) => isNumber(head) && cell(row, head).dataset.value === undefined;

  const list = document.createElement("select");
  const label = document.createElement("label");
  label.className = "sort-list";
  label.append("Sort by ", list);
  list.add(new Option("order of the report", ""));

  const sort = (head, direction) => {
    let rows = inOrder;
    if (head !== null) {
      const sign = direction === "ascending" ? 1 : -1;
      const known = inOrder.filter((row) => !isMissing(row, head)); // what is not known stays last
      rows = known.sort((a, b) => sign * compare(a, b, head)).concat(inOrder.filter((row) => isMissing(row, head)));
    }
    body.append(...rows);
    for (const other of heads) other.setAttribute("aria-sort", other === head ? direction : "none");
    list.value = head === null ? "" : `${head.dataset.column} ${direction}`;
  };

  for (const head of heads) {
    // the best score first, names from A; then the other way; then as the report has it
    const first = isNumber(head) ? "descending" : "ascending";
    const second = isNumber(head) ? "ascending" : "descending";
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      if (now === second) sort(null, "none");
      else sort(head, now === first ? second : first);
    });
    const name = cell(inOrder[0], head).dataset.label || button.textContent;
    for (const direction of [first, second]) {
      list.add(new Option(`${name}, ${direction}`, `${head.dataset.column} ${direction}`));
    }
  }
  list.addEventListener("change", () => {
    const [column, direction] = list.value.split(" ");
    sort(column === "" ? null : heads.find((head) => head.dataset.column === column), direction);
  });
  table.parentElement.before(label);
}
