// Tooltips: the values of all lines of a chart at the pointer.
"use strict";
const tip = document.getElementById("tip");
const minus = (text) => text.replace("-", "\u2212");

function count(value) {
  for (const [unit, size] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= size) return Number((value / size).toPrecision(4)) + " " + unit;
  }
  return String(Number(value.toPrecision(4)));
}

function nearest(values, wanted, log) {
  let best = 0;
  const distance = (value) => Math.abs(log ? Math.log(value / wanted) : value - wanted);
  for (let index = 1; index < values.length; ++index) {
    if (distance(values[index]) < distance(values[best])) best = index;
  }
  return best;
}

function rowsAt(chart, x, slack) {
  const rows = [];
  for (const line of chart.lines) {
    const index = nearest(line.x, x, chart.xLog);
    const off = chart.xLog ? Math.abs(Math.log(line.x[index] / x)) : Math.abs(line.x[index] - x);
    if (off > slack) continue;
    const band = line.low ? minus(line.low[index].toFixed(chart.decimals)) + " to " + minus(line.high[index].toFixed(chart.decimals)) : "";
    rows.push([line, minus(line.y[index].toFixed(chart.decimals)), band]);
  }
  return rows;
}

function fill(chart, x, rows) {
  const table = document.createElement("table");
  for (const [line, value, band] of rows) {
    const row = table.insertRow();
    const swatch = document.createElement("span");
    swatch.className = "swatch " + line.kind;
    row.insertCell().append(swatch, line.label);
    row.insertCell().textContent = value;
    row.insertCell().textContent = band;
  }
  const head = document.createElement("div");
  head.textContent = chart.xLabel + ": " + (chart.xKind === "count" ? count(x) : Number(x.toPrecision(4)));
  tip.replaceChildren(head, table);
}

function watch(svg, chart) {
  const cursor = svg.querySelector(".cursor"), frame = chart.frame;
  const [low, high] = chart.xLog ? chart.bounds.slice(0, 2).map(Math.log) : chart.bounds;
  const hide = () => { tip.style.display = "none"; cursor.style.visibility = "hidden"; };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * frame.width;
    const share = (at - frame.left) / (frame.right - frame.left);
    if (share < 0 || share > 1) return hide();
    const position = low + share * (high - low);
    const rows = rowsAt(chart, chart.xLog ? Math.exp(position) : position, 0.04 * (high - low));
    if (!rows.length) return hide();
    fill(chart, chart.xLog ? Math.exp(position) : position, rows);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.style.visibility = "visible";
    tip.style.display = "block";
    const left = event.clientX + 14 + tip.offsetWidth > document.documentElement.clientWidth
      ? Math.max(4, event.clientX - 14 - tip.offsetWidth) : event.clientX + 14;
    tip.style.left = left + window.scrollX + "px";
    tip.style.top = event.clientY + 14 + window.scrollY + "px";
  });
}

for (const data of document.querySelectorAll("script[data-chart]")) {
  watch(document.getElementById(data.dataset.chart), JSON.parse(data.textContent));
}
