// The cycles of the last hour: a bar for each, or for some that follow each other.

const CHART = { height: 108, left: 44, top: 8, base: 76, marks: 4, strip: 6 };

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
    place(duration, { ...size, y: (base - high).toFixed(1), height: high.toFixed(1), class: bar.outcome });
    // Not by colour alone: below the axis, a low mark for partial and a high one for failure.
    const below = { success: 0, partial: 1, failure: 2 }[bar.outcome] * CHART.strip;
    place(mark, { ...size, y: base + CHART.marks, height: below, class: bar.outcome });
    const what = bar.cycles === 1 ? bar.outcome : `${bar.cycles} cycles, at worst ${bar.outcome}`;
    setText(title, `${clock(bar.ended)}: ${what}, ${span(bar.duration_seconds)}`);
  });
  const of = (outcome) => bars.filter((bar) => bar.outcome === outcome).reduce((sum, bar) => sum + bar.cycles, 0);
  const all = bars.reduce((sum, bar) => sum + bar.cycles, 0);
  const single = bars.every((bar) => bar.cycles === 1);
  const outcomes = single
    ? `${count(of("success"))} success, ${count(of("partial"))} partial, ${count(of("failure"))} failure`
    : `${plural(bars.length, "bar")} of up to ${span(cycles.entry_seconds)}, of which ${count(bars.filter((bar) => bar.outcome === "partial").length)} with a partial and ${count(bars.filter((bar) => bar.outcome === "failure").length)} with a failed cycle`;
  setText(byId("cycles-text"), all === 0
    ? "No cycle has been completed in the last hour."
    : `${plural(all, "cycle")}: ${outcomes}. The longest took ${span(longest)}. Marks below the axis: low for partial, high for failure.`);
}
