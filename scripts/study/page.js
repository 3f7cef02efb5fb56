// Tooltips: the values of all lines of a chart at the pointer.
"use strict";
const tip = document.getElementById("tip");

function nearest(values, wanted, log) {
  let best = 0;
  const distance = (value) => Math.abs(log ? Math.log(value / wanted) : value - wanted);
  for (let index = 1; index < values.length; ++index) {
    if (distance(values[index]) < distance(values[best])) best = index;
  }
  return best;
}

// [distance, line, index] of the point of each line that is nearest to x. Its texts are the page's own, as in its tables.
function pointsAt(chart, x, slack) {
  const points = [];
  for (const line of chart.lines) {
    const index = nearest(line.x, x, chart.xLog);
    const off = Math.abs(chart.xLog ? Math.log(line.x[index] / x) : line.x[index] - x);
    if (off <= slack) points.push([off, line, index]);
  }
  return points;
}

function fill(chart, points) {
  const table = document.createElement("table");
  for (const [, line, index] of points) {
    const row = table.insertRow();
    const swatch = document.createElement("span");
    swatch.className = "swatch " + line.kind;
    row.insertCell().append(swatch, line.label);
    row.insertCell().textContent = line.value[index];
    row.insertCell().textContent = line.band ? line.band[index] : "";
  }
  const [, line, index] = points.reduce((one, other) => other[0] < one[0] ? other : one);
  const head = document.createElement("div");
  head.textContent = chart.xLabel + ": " + line.at[index];
  tip.replaceChildren(head, table);
}

function watch(svg, chart) {
  const cursor = svg.querySelector(".cursor"), frame = chart.frame;
  const [low, high] = chart.xLog ? chart.bounds.map(Math.log) : chart.bounds;
  const hide = () => { tip.style.display = "none"; cursor.style.visibility = "hidden"; };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * frame.width;
    const share = (at - frame.left) / (frame.right - frame.left);
    if (share < 0 || share > 1) return hide();
    const position = low + share * (high - low);
    const points = pointsAt(chart, chart.xLog ? Math.exp(position) : position, 0.04 * (high - low));
    if (!points.length) return hide();
    fill(chart, points);
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
