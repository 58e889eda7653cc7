// Every chart's numbers, as a file and as a table.
// Text that a spreadsheet would take for a formula has an apostrophe in front, as in the files of a run.
const FORMULA = /^'*[=+\-@\t\r\n＝＋－＠]/;
const csvCell = (value) => {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" && FORMULA.test(value) ? "'" + value : String(value);
  return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
};
const csvOf = (table) => {
  const lines = [table.names.map(csvCell).join(",")];
  const rows = table.columns.length ? table.columns[0].length : 0;
  for (let row = 0; row < rows; row++) lines.push(table.columns.map((column) => csvCell(column[row])).join(","));
  return lines.join("\n") + "\n";
};
const download = (name, text) => {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const link = make("a", { href: address, download: name + ".csv" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
};
const numbersTable = (table, most = 500) => {
  const rows = table.columns.length ? table.columns[0].length : 0;
  const shown = (value) =>
    value === null || value === undefined ? "–"
      : typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(5))) : visible(String(value));
  const body = make("tbody");
  for (let row = 0; row < Math.min(rows, most); row++)
    body.append(make("tr", {}, ...table.columns.map((column) => make("td", { dir: "auto" }, shown(column[row])))));
  const head = make("thead", {}, make("tr", {}, ...table.names.map((name) => make("th", { scope: "col" }, name.replaceAll("_", " ")))));
  const box = make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Numbers" }, make("table", {}, head, body));
  return rows > most ? make("div", {}, box, make("p", { class: "note" }, rows - most + " more rows are in the download.")) : box;
};
