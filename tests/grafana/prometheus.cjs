// Builds queries, and data frames from the answers, like Grafana's Prometheus data source.
"use strict";

const { FieldType, findCommonLabels, getFieldDisplayName, rangeUtil } = require("@grafana/data");

const { interpolate, escapedForPrometheus } = require("./interpolate.cjs");

async function get(base, path, parameters) {
  const answer = await fetch(`${base}${path}`, { method: "POST", body: new URLSearchParams(parameters) });
  const body = await answer.json();
  if (body.status !== "success") throw new Error(body.error);
  return body.data;
}

// label_values(selector, label), as in variables.
async function labelValues(base, query, { from, to }) {
  const parts = /^label_values\((?:(.+),\s*)?(.+?)\)\s*$/s.exec(query);
  if (!parts) throw new Error(`not label_values(): ${query}`);
  const [, selector, label] = parts;
  const parameters = new URLSearchParams({ start: from, end: to });
  if (selector) parameters.append("match[]", selector);
  const answer = await fetch(`${base}/api/v1/label/${label}/values?${parameters}`);
  const body = await answer.json();
  if (body.status !== "success") throw new Error(`${query}: ${body.error}`);
  return body.data;
}

// $__interval and related variables for a panel of this width.
function intervals(panel, { from, to, scrapeInterval }, pixels) {
  const range = rangeUtil.convertRawToRange({
    from: new Date(from * 1000).toISOString(),
    to: new Date(to * 1000).toISOString(),
  });
  const least = panel.interval || scrapeInterval;
  const { interval, intervalMs } = rangeUtil.calculateInterval(range, panel.maxDataPoints ?? pixels, least);
  const step = intervalMs / 1000;
  const scrape = rangeUtil.intervalToSeconds(scrapeInterval);
  const seconds = Math.round(to - from);
  return {
    step,
    built: {
      __interval: interval,
      __interval_ms: intervalMs,
      __rate_interval: `${Math.max(step + scrape, 4 * scrape)}s`,
      __range: `${seconds}s`,
      __range_s: seconds,
      __range_ms: seconds * 1000,
    },
  };
}

const number = (text) => (/^[+-]?inf/i.test(text) ? (text[0] === "-" ? -Infinity : Infinity) : parseFloat(text));

function legend(target, labels) {
  const name = labels.__name__ ?? "";
  const rest = Object.entries(labels).filter(([key]) => key !== "__name__");
  if (target.legendFormat === "__auto") return undefined;
  if (target.legendFormat) return target.legendFormat.replace(/{{\s*(.+?)\s*}}/g, (_, key) => labels[key] ?? "");
  return `${name}{${rest.map(([key, value]) => `${key}="${value}"`).join(", ")}}`;
}

// One frame per series.
function frames(target, data) {
  const instant = data.resultType === "vector";
  const series = data.resultType === "scalar" ? [{ metric: {}, value: data.result }] : data.result;
  const all = series.map(({ metric, value, values }) => {
    const points = values ?? [value];
    const times = points.map(([time]) => time * 1000);
    const valueField = {
      name: "Value",
      type: FieldType.number,
      labels: metric,
      config: { displayNameFromDS: legend(target, metric) },
      values: points.map(([, text]) => number(text)),
    };
    return {
      refId: target.refId,
      name: valueField.config.displayNameFromDS,
      fields: [{ name: "Time", type: FieldType.time, config: {}, values: times }, valueField],
      length: times.length,
      meta: { instant },
    };
  });
  if (target.legendFormat === "__auto") {
    const common = all.length === 1 ? {} : findCommonLabels(all.map((frame) => frame.fields[1].labels));
    for (const frame of all) {
      const name = getFieldDisplayName(frame.fields[1], frame, all, common);
      frame.fields[1].config.displayNameFromDS = name;
    }
  }
  return all;
}

// All series of one query as a table: time, labels, value.
function table(series, refId, ofSeveral) {
  const names = [];
  for (const { fields } of series) {
    for (const label of Object.keys(fields[1].labels).sort()) if (!names.includes(label)) names.push(label);
  }
  const column = (name, type, of) => ({ name, type, config: {}, values: series.flatMap(of) });
  const fields = [
    column("Time", FieldType.time, ({ fields: [time] }) => time.values),
    ...names.map((name) =>
      column(name, FieldType.string, ({ fields: [, value] }) => value.values.map(() => value.labels[name] ?? "")),
    ),
    column(ofSeveral ? `Value #${refId}` : "Value", FieldType.number, ({ fields: [, value] }) => value.values),
  ];
  return { refId, fields, length: fields[0].values.length, meta: {} };
}

// The non-cumulative buckets of a histogram, as rows of one frame.
function heatmap(series) {
  if (!series.length) return [];
  const bound = ({ fields: [, value] }) => number(value.labels.le ?? "NaN");
  const sorted = [...series].sort((a, b) => bound(a) - bound(b));
  const times = [...new Set(sorted.flatMap(({ fields: [time] }) => time.values))].sort((a, b) => a - b);
  const at = ({ fields: [time, value] }) => {
    const values = new Map(time.values.map((t, i) => [t, value.values[i]]));
    return times.map((t) => values.get(t) ?? 0);
  };
  let below = times.map(() => 0);
  const rows = sorted.map((frame) => {
    const values = at(frame);
    const own = values.map((value, i) => Math.max(0, value - below[i]));
    below = values;
    return { name: frame.fields[1].labels.le, type: FieldType.number, config: {}, values: own };
  });
  const time = { name: "Time", type: FieldType.time, config: {}, values: times };
  return [{ refId: series[0].refId, fields: [time, ...rows], length: times.length, meta: { type: "heatmap-rows" } }];
}

// Runs the queries of a panel. Returns the frames, and the queries as sent.
async function ask(panel, variables, look, pixels) {
  const { step, built } = intervals(panel, look, pixels);
  const targets = (panel.targets ?? []).filter((target) => !target.hide);
  const tables = targets.filter((target) => target.format === "table");
  const asked = [];
  for (const target of targets) {
    const query = interpolate(target.expr, { variables, built, fallback: escapedForPrometheus });
    const ways = target.instant && !target.range ? ["instant"] : target.instant ? ["range", "instant"] : ["range"];
    for (const way of ways) {
      const floor = (time) => Math.floor(time / step) * step;
      const data =
        way === "instant"
          ? await get(look.prometheus, "/api/v1/query", { query, time: look.to })
          : await get(look.prometheus, "/api/v1/query_range", { query, start: floor(look.from), end: floor(look.to), step });
      asked.push({ target, query, step, series: frames(target, data) });
    }
  }
  const result = asked.flatMap(({ target, series }) => {
    if (target.format === "heatmap") return heatmap(series);
    if (target.format !== "table") return series;
    return series.length ? [table(series, target.refId, tables.length > 1)] : [];
  });
  return { frames: result, asked, step, built };
}

module.exports = { ask, labelValues };
