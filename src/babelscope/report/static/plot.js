// Charts drawn by plotly, in the page's colours.
const plotLayout = (layout, height) => {
  const ink = theme.colour("ink"), grid = theme.colour("grid"), back = theme.colour("card");
  const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: theme.colour("line"), automargin: true, ticks: "", exponentformat: "power" };
  const themed = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height,
    font: { color: ink, size: 13, family: getComputedStyle(document.body).fontFamily },
    margin: { l: 60, r: 16, t: 26, b: 48 }, hoverlabel: { bgcolor: back, bordercolor: ink, font: { color: ink } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, dragmode: false, ...layout,
  };
  for (const name of new Set(["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))]))
    themed[name] = { ...axis, ...(layout[name] ?? {}), title: { standoff: 12, ...(layout[name]?.title ?? {}) } };
  return themed;
};
// On a narrow screen the scale of colours lies above the cells, where it leaves them the whole width.
const level = (bar) => ({ ...bar, orientation: "h", x: 0.5, xanchor: "center", y: 1.02, yanchor: "bottom", len: 1, thickness: 10, title: { ...bar.title, side: "top" } });
const narrowed = (trace) => trace.colorbar ? { ...trace, colorbar: level(trace.colorbar) }
  : trace.marker?.colorbar ? { ...trace, marker: { ...trace.marker, colorbar: level(trace.marker.colorbar) } } : trace;
// More than four names under one another, where side by side they would be left out.
const upright = (layout) => Object.fromEntries(Object.entries(layout).map(([key, axis]) =>
  [key, /^xaxis\d*$/.test(key) && axis.ticktext?.length > 4 ? { ...axis, tickangle: -90 } : axis]));
const drawPlot = (block, data) => {
  const place = block.querySelector(".canvas"), height = Number(place.dataset.height);
  const select = block.querySelector(".choose");
  const chosen = () => data.variants[select ? Number(select.value) : 0];
  const draw = () => {
    const { figure } = chosen(), ink = theme.colour("ink");
    const narrow = place.clientWidth < 480;
    const traces = figure.data.map((trace) => trace.error_y ? { ...trace, error_y: { ...trace.error_y, color: ink } } : trace)
      .map((trace) => narrow ? narrowed(trace) : trace);
    const scale = narrow && figure.data.some((trace) => trace.colorbar || trace.marker?.colorbar) ? 70 : 0;
    place.style.minHeight = `${height + scale}px`;
    return Plotly.react(place, traces, plotLayout(narrow ? upright(figure.layout) : figure.layout, height + scale), { displayModeBar: false, responsive: true });
  };
  const drawn = draw();
  select?.addEventListener("change", draw);
  theme.onChange(draw);
  return { table: () => chosen().table, drawn, select };
};
