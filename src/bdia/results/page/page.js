// Draws every figure of the page from the JSON beside it; on paper at the paper's width.
const PAPER = 660;
const plots = [...document.querySelectorAll(".plot")];
const options = { displayModeBar: false, responsive: true, staticPlot: false, scrollZoom: false };
for (const plot of plots) {
  const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
  layout.dragmode = false; // a finger scrolls the page
  Plotly.newPlot(plot, data, layout, options);
}
const resize = (width) => plots.forEach((plot) => Plotly.relayout(plot, width ? { width } : { autosize: true, width: null }));
window.matchMedia("print").addEventListener("change", (event) => resize(event.matches ? PAPER : null));
window.addEventListener("beforeprint", () => resize(PAPER));
window.addEventListener("afterprint", () => resize(null));
