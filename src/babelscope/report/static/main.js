// One block after another, so that the page answers while it draws; `data-ready` on the root says that all is there.
const menu = document.querySelector(".menu");
menu.addEventListener("click", (event) => { if (event.target.closest("a")) menu.open = false; });
addEventListener("keydown", (event) => { if (event.key === "Escape" && menu.open) { menu.open = false; menu.firstElementChild.focus(); } });
(async () => {
  const drawers = { plot: drawPlot, similarity: drawSimilarity, graph: drawGraph, table: (_, data) => ({ table: () => data.table }) };
  // example prompts are in the page already; their data is that of a table
  const pause = () => new Promise((resolve) => setTimeout(resolve));
  for (const block of document.querySelectorAll("figure.block")) {
    const data = JSON.parse(block.querySelector("script.data").textContent);
    const drawn = drawers[data.kind](block, data);
    const csv = drawn.csv ?? (() => csvOf(drawn.table()));
    block.querySelector(".download").addEventListener("click", () => download(data.name, csv()));
    const numbers = block.querySelector("details.numbers");
    if (numbers && drawn.table) {
      const fill = () => {
        while (numbers.children.length > 1) numbers.lastChild.remove();
        if (numbers.open) numbers.append(numbersTable(drawn.table()));
      };
      numbers.addEventListener("toggle", fill);
      drawn.select?.addEventListener("change", fill);
    } else numbers?.remove();
    await drawn.drawn;
    await pause();
  }
  document.documentElement.dataset.ready = "yes";
})();
