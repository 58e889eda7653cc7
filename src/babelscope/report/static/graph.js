// The circuit as layers from the input below to the output above; a node is a head or a feed-forward block.
const drawGraph = (block, data) => {
  const { layers, heads, languages, nodes, edges, names } = data.spec;
  const SVG = "http://www.w3.org/2000/svg";
  const shape = (name, properties, ...children) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const SHARED = { all: "#0072B2", some: "#009E73", one: "#D55E00" };
  const shown = new Set(languages.filter((code) => nodes.some((node) => node.languages[code])));
  const offered = [...shown];
  let pinned = null;

  const used = [...new Set(nodes.map((node) => node.layer))].sort((a, b) => a - b);
  const rowOf = new Map(used.map((layer, row) => [layer, row]));
  const step = 62, wide = 760, left = 74, right = 24, top = 46, tall = top + used.length * step + 54;
  const yOf = (layer) => top + (used.length - 1 - rowOf.get(layer)) * step + step / 2;
  const across = heads + (nodes.some((node) => node.head === null) ? 1 : 0);
  const positions = new Map();
  for (const layer of used) {
    const row = nodes.filter((node) => node.layer === layer).sort((a, b) => (a.head ?? heads) - (b.head ?? heads));
    let least = -Infinity;
    for (const node of row) {
      const ideal = left + (((node.head ?? heads) + 0.5) / Math.max(1, across)) * (wide - left - right);
      least = Math.max(ideal, least + 34);
      positions.set(node.id, [least, yOf(layer)]);
    }
    // What was pushed beyond the edge is pushed back, keeping its distances.
    let most = wide - right;
    for (const node of row.reverse()) {
      const place = positions.get(node.id);
      place[0] = Math.min(place[0], most);
      most = place[0] - 34;
    }
  }
  positions.set("input", [wide / 2, tall - 26]);
  positions.set("output", [wide / 2, 24]);

  const svg = shape("svg", { viewBox: `0 0 ${wide} ${tall}`, role: "group", "aria-label": "Circuit graph" });
  const card = make("div", { class: "card", "aria-live": "polite" });
  const boxes = make("fieldset", {}, make("legend", {}, "Languages"));
  for (const code of offered) {
    const input = make("input", { type: "checkbox", checked: true });
    input.addEventListener("change", () => { if (input.checked) shown.add(code); else shown.delete(code); draw(); });
    boxes.append(make("label", {}, input, " " + names[code]));
  }
  const legend = make("p", { class: "legend" });
  for (const [kind, text] of [["all", "in all languages shown"], ["some", "in several"], ["one", "in one"]]) {
    const swatch = make("span", { class: "swatch " + kind });
    swatch.style.background = SHARED[kind];
    legend.append(make("span", {}, swatch, text));
  }
  if (edges.some((edge) => edge.score > 0))
    for (const [kind, text] of [["stroke", "works for the answer"], ["stroke against", "works against it"]])
      legend.append(make("span", {}, make("span", { class: kind }), text));
  block.querySelector(".canvas").append(make("div", { class: "circuit" }, make("div", { class: "controls" }, boxes), make("div", {}, make("div", { class: "scroll" }, svg), legend), card));

  const sharedBy = (node) => {
    const count = [...shown].filter((code) => node.languages[code]).length;
    return count === 0 ? null : count === shown.size ? "all" : count > 1 ? "some" : "one";
  };
  const title = (node) => (node.kind === "mlp" ? "MLP of layer " + node.layer : "Head " + node.layer + "." + node.head);
  const lines = (node) => [...shown].filter((code) => node.languages[code]).map((code) => {
    const facts = node.languages[code], told = [];
    for (const [role, score] of facts.roles ?? []) told.push(role.replaceAll("_", " ") + (score === null ? "" : " (" + score + ")"));
    for (const [name, number] of Object.entries(facts.measures ?? {})) told.push(name + ": " + number);
    if (facts.promotes?.length) told.push("promotes " + facts.promotes.map((token) => "\u2068" + visible(token) + "\u2069").join(" · "));
    return [code, told];
  });
  const describe = (node) => {
    svg.querySelectorAll(".edge").forEach((edge) => edge.classList.toggle("lit", Boolean(node) && (edge.dataset.from === node.id || edge.dataset.to === node.id)));
    svg.querySelectorAll(".node").forEach((it) => it.classList.toggle("lit", Boolean(node) && it.dataset.id === node.id));
    if (!node) { card.replaceChildren(make("h5", {}, "Node"), make("p", {}, "Point at a node to read its numbers.")); return; }
    card.replaceChildren(make("h5", {}, title(node) + (pinned === node ? ", pinned" : "")));
    for (const [code, told] of lines(node)) {
      card.append(make("p", { class: "where" }, names[code]), make("ul", {}, ...told.map((line) => make("li", { dir: "auto" }, line))));
    }
  };
  const form = (kind, x, y) => kind === "all" ? shape("circle", { class: "shape", cx: x, cy: y, r: 10 })
    : kind === "some" ? shape("rect", { class: "shape", x: x - 8, y: y - 8, width: 16, height: 16, transform: `rotate(45 ${x} ${y})` })
    : shape("rect", { class: "shape", x: x - 9, y: y - 9, width: 18, height: 18 });
  const draw = () => {
    svg.replaceChildren();
    for (const layer of used) {
      svg.append(shape("line", { class: "rail", x1: left - 10, x2: wide - right + 10, y1: yOf(layer), y2: yOf(layer) }));
      svg.append(shape("text", { x: 6, y: yOf(layer) + 4 }, "layer " + layer));
    }
    const strongest = Math.max(...edges.map((edge) => Math.abs(edge.score)), 1e-9);
    for (const edge of edges) {
      const from = positions.get(edge.from), to = positions.get(edge.to);
      if (!shown.has(edge.language) || !from || !to) continue;
      const middle = (from[1] + to[1]) / 2;
      const path = shape("path", { class: edge.score > 0 ? "edge against" : "edge", d: `M${from[0]},${from[1]} C${from[0]},${middle} ${to[0]},${middle} ${to[0]},${to[1]}`, "stroke-width": 0.6 + (2.6 * Math.abs(edge.score)) / strongest });
      path.dataset.from = edge.from; path.dataset.to = edge.to;
      svg.append(path);
    }
    for (const [name, text, aside] of [["input", "input", 12], ["output", "logits", -4]]) {
      const [x, y] = positions.get(name);
      svg.append(shape("text", { x, y: y + aside, "text-anchor": "middle" }, text));
    }
    const order = [...nodes].sort((a, b) => a.layer - b.layer || (a.head ?? 1e9) - (b.head ?? 1e9));
    for (const node of order) {
      const kind = sharedBy(node);
      if (!kind) continue;
      const [x, y] = positions.get(node.id);
      const told = title(node) + ": " + lines(node).map(([code, said]) => names[code] + " " + said.join(", ")).join("; ");
      const group = shape("g", { class: "node", tabindex: "0", role: "button", "aria-label": told.slice(0, 400) });
      const drawn = form(kind, x, y);
      drawn.setAttribute("fill", SHARED[kind]);
      group.append(drawn, shape("text", { class: "name", x, y: y + 24, "text-anchor": "middle" }, node.kind === "mlp" ? "mlp " + node.layer : node.id));
      group.dataset.id = node.id;
      const preview = () => { if (!pinned) describe(node); };
      const pin = () => { pinned = pinned === node ? null : node; describe(node); };
      group.addEventListener("pointerenter", preview);
      group.addEventListener("focus", preview);
      group.addEventListener("click", pin);
      group.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(); } });
      svg.append(group);
    }
    describe(pinned && sharedBy(pinned) ? pinned : null);
  };
  draw();
  return { table: () => data.table };
};
