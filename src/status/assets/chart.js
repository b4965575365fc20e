// The cycles of the last hour: a bar for each cycle, or for several consecutive ones.

const CHART = { height: 108, left: 56, top: 8, base: 76, marks: 4, strip: 6 };
const WORST_FIRST = ["failure", "partial", "success"];

function svg(name, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

// The y axis ends at 1, 2 or 5 times a power of ten.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 0.001)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((end) => end >= value);
}

function chart() {
  const { cycles } = report;
  const bars = cycles.last_hour;
  const longest = Math.max(0, ...bars.map((bar) => bar.duration_seconds));
  const top = roundUp(longest);
  const box = byId("chart");
  const width = Math.max(240, box.clientWidth);
  const { height, left, base } = CHART;
  let image = box.firstElementChild;
  if (!image) {
    image = svg("svg", { role: "img", "aria-labelledby": "cycles-text" }, box);
    ["line", "line", "text", "text", "text", "text", "text"].forEach((name) => svg(name, {}, image));
    svg("g", {}, image);
  }
  setAttribute(image, "viewBox", `0 0 ${width} ${height}`);
  const [line, upper, most, least, hour, half, now, group] = image.children;
  const place = (node, attributes, text) => {
    for (const [key, value] of Object.entries(attributes)) setAttribute(node, key, value);
    if (text !== undefined) setText(node, text);
  };
  place(line, { x1: left, x2: width, y1: base + 0.5, y2: base + 0.5, class: "axis" });
  place(upper, { x1: left, x2: width, y1: CHART.top + 0.5, y2: CHART.top + 0.5, class: "axis" });
  place(most, { x: left - 6, y: CHART.top + 4, "text-anchor": "end" }, span(top));
  place(least, { x: left - 6, y: base + 4, "text-anchor": "end" }, "0");
  place(hour, { x: left, y: height - 4 }, "1 h ago");
  place(half, { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, "30 min ago");
  place(now, { x: width, y: height - 4, "text-anchor": "end" }, "now");
  const end = Date.parse(report.published);
  const perSecond = (width - left) / HOUR;
  const step = cycles.entry_seconds * perSecond;
  const create = () => {
    const bar = svg("g", {});
    svg("rect", {}, bar);
    svg("rect", {}, bar);
    svg("title", {}, bar);
    return bar;
  };
  list(group, bars, (bar) => bar.ended, create, (node, bar) => {
    const [duration, mark, title] = node.children;
    const x = Math.max(left, width - ((end - Date.parse(bar.ended)) / 1000) * perSecond - step);
    const size = { x: x.toFixed(1), width: Math.max(1, step * 0.8).toFixed(1) };
    const high = Math.max(1, (bar.duration_seconds / top) * (base - CHART.top));
    const worst = WORST_FIRST.find((outcome) => bar[outcome] > 0);
    place(duration, { ...size, y: (base - high).toFixed(1), height: high.toFixed(1), class: worst });
    // Not by color alone: below the axis, a short mark for partial and a tall one for failure.
    const below = { success: 0, partial: 1, failure: 2 }[worst] * CHART.strip;
    place(mark, { ...size, y: base + CHART.marks, height: below, class: worst });
    setText(title, `${clock(bar.ended)}: ${outcomes([bar])}, ${span(bar.duration_seconds)}`);
  });
  setText(byId("cycles-text"), bars.length === 0
    ? "No cycle has been completed in the last hour."
    : `Cycles: ${outcomes(bars)}. The longest took ${span(longest)}. Marks below the axis: short for partial, tall for failed.`);
}

// The number of cycles in some bars, by outcome.
function outcomes(bars) {
  const sum = (outcome) => count(bars.reduce((all, bar) => all + bar[outcome], 0));
  return `${sum("success")} successful, ${sum("partial")} partial, ${sum("failure")} failed`;
}
