// Computes what Grafana would show on a dashboard: Grafana's own code for transformations,
// overrides, value mappings, thresholds, units and links, with the answers of a running Prometheus.
//
//     NODE_PATH=$(./get) node show.cjs <looks.json
//
// A look is {dashboard, prometheus, from, to, variables?, panels?, scrapeInterval, width}. The
// result is {variables, panels} for each look, in the same order.
"use strict";

const { readFileSync } = require("node:fs");

const grafana = require("@grafana/data");
const { lastValueFrom } = require("rxjs");

// Grafana's transformations need this global. It is set after the packages are loaded, because some
// of them would detect a browser.
globalThis.window = { __grafanaSceneContext: {} };
globalThis.navigator ??= { language: "en-US", languages: ["en-US"] };

const { interpolate, escapedForPrometheus, FORMATS, ALL } = require("./interpolate.cjs");
const { ask, labelValues } = require("./prometheus.cjs");

const theme = grafana.createTheme({ colors: { mode: "dark" } });

const transformers = new Map(Object.values(grafana.standardTransformers).map((one) => [one.id, one]));
grafana.standardTransformersRegistry.setInit(() =>
  [...transformers.values()].map((one) => ({ id: one.id, name: one.name, transformation: () => one })),
);
grafana.locationUtil.initialize({
  config: { appSubUrl: "" },
  getVariablesUrlParams: () => ({}),
  getTimeRangeForUrl: () => ({}),
});

// The field options that a panel can set: Grafana's standard ones, and those of its type.
function fieldOptions(fieldConfig) {
  const { defaults = {}, overrides = [] } = fieldConfig;
  const special = {
    mappings: grafana.valueMappingsOverrideProcessor,
    thresholds: grafana.thresholdsOverrideProcessor,
    links: grafana.dataLinksOverrideProcessor,
    displayName: grafana.displayNameOverrideProcessor,
  };
  const paths = (value, path) =>
    value && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length
      ? Object.entries(value).flatMap(([key, inner]) => paths(inner, path ? `${path}.${key}` : key))
      : [path];
  const set = overrides.flatMap(({ properties }) => properties.map(({ id }) => id));
  const standard = ["unit", "min", "max", "fieldMinMax", "decimals", "displayName", "noValue", "thresholds", "mappings", "links", "color", "filterable"];
  const custom = new Set([
    ...(defaults.custom ? paths(defaults.custom, "") : []),
    ...set.filter((id) => id.startsWith("custom.")).map((id) => id.slice("custom.".length)),
  ]);
  const unknown = set.filter((id) => !standard.includes(id) && !id.startsWith("custom."));
  if (unknown.length) throw new Error(`no such field option: ${unknown}`);
  const option = (path, isCustom) => ({
    id: isCustom ? `custom.${path}` : path,
    name: path,
    path,
    isCustom,
    process: special[isCustom ? "" : path] ?? grafana.identityOverrideProcessor,
    shouldApply: () => true,
    settings: {},
  });
  return new grafana.Registry(() => [...standard.map((id) => option(id, false)), ...[...custom].map((id) => option(id, true))]);
}

// The values of a dashboard's variables: the given ones, or those that Grafana selects by default.
async function choose(dashboard, look) {
  const variables = {};
  for (const variable of dashboard.templating?.list ?? []) {
    const { name, type, multi = false, includeAll = false, allValue } = variable;
    let options = [];
    let error;
    if (type === "query") {
      const template = typeof variable.query === "string" ? variable.query : variable.query.query;
      const query = interpolate(template, { variables, fallback: escapedForPrometheus });
      options = await labelValues(look.prometheus, query, look).catch((failure) => {
        error = failure.message;
        return [];
      });
      const filter = variable.regex && grafana.stringToJsRegex(variable.regex);
      if (filter) options = options.filter((text) => filter.test(text)).map((text) => text.match(filter)[1] ?? text);
    } else if (type === "custom") {
      options = variable.query.split(",").map((text) => text.trim());
    }
    const current = look.variables?.[name] ?? variable.current?.value ?? variable.query;
    let value = type === "datasource" ? "prometheus" : current;
    const given = look.variables && name in look.variables;
    if (["query", "custom"].includes(type)) {
      const first = Array.isArray(value) ? value[0] : value;
      if (includeAll && (first === ALL || first === undefined || first === "")) value = ALL;
      else if (!given && !options.includes(first)) value = includeAll ? ALL : (options[0] ?? "");
      if (multi && value !== ALL && !Array.isArray(value)) value = [value];
    }
    const all = value === ALL;
    variables[name] = { value: all ? options : value, all, multi, includeAll, allValue, options, error };
  }
  return variables;
}

const pixels = (width, columns) => ((width - 23 * 8) / 24) * columns + (columns - 1) * 8;

function links(field, config) {
  return field.getLinks ? field.getLinks(config).map(({ href, title }) => ({ href, title })) : [];
}

const shown = ({ text, prefix = "", suffix = "", color, numeric, title }) => ({ title, text: `${prefix}${text}${suffix}`, color, numeric });

// One value or several: stat, gauge, bar gauge.
function tiles(panel, data, replaceVariables) {
  const { reduceOptions } = panel.options;
  const values = grafana.getFieldDisplayValues({ fieldConfig: panel.fieldConfig, reduceOptions, replaceVariables, theme, data, timeZone: "utc" });
  return values.map(({ display, getLinks }) => ({
    ...shown(display),
    links: getLinks ? getLinks().map(({ href, title }) => ({ href, title })) : [],
  }));
}

const colourful = (field) => /color|gauge/.test(field.config.custom?.cellOptions?.type ?? "");

function rows(frame, data) {
  const hidden = (field) => field.config.custom?.hidden || field.config.custom?.hideFrom?.viz;
  const fields = (frame?.fields ?? []).filter((field) => !hidden(field));
  const columns = fields.map((field) => ({
    name: grafana.getFieldDisplayName(field, frame, data),
    type: field.type,
    width: field.config.custom?.width ?? field.config.custom?.minWidth ?? 150,
  }));
  const cell = (field, row) => {
    const display = field.display(field.values[row]);
    return {
      text: grafana.formattedValueToString(display),
      color: colourful(field) ? display.color : null,
      raw: field.values[row] ?? null,
      links: links(field, { valueRowIndex: row }),
    };
  };
  const length = fields.length ? frame.length ?? fields[0].values.length : 0;
  return { columns, rows: Array.from({ length }, (_, row) => fields.map((field) => cell(field, row))) };
}

// The series of a graph.
function series(data) {
  return data.flatMap((frame) =>
    frame.fields
      .filter((field) => field.type !== grafana.FieldType.time)
      .map((field) => ({
        name: grafana.getFieldDisplayName(field, frame, data),
        color: grafana.getFieldSeriesColor(field, theme).color,
        labels: field.labels ?? {},
        values: field.values.filter((value) => value !== null && !Number.isNaN(value)),
        texts: field.values.slice(-1).map((value) => grafana.formattedValueToString(field.display(value))),
        links: links(field, { valueRowIndex: field.values.length - 1 }),
      })),
  );
}

async function show(panel, variables, look) {
  const answer = await ask(panel, variables, look, pixels(look.width, panel.gridPos.w));
  const time = { from: look.from * 1000, to: look.to * 1000 };
  const built = {
    ...answer.built,
    __url_time_range: `from=${time.from}&to=${time.to}`,
    __from: time.from,
    __to: time.to,
  };
  const replaceVariables = (text, scopedVars, format) =>
    interpolate(text, { variables, built, fallback: FORMATS[format], context: scopedVars?.__dataContext?.value });
  const transformed = await lastValueFrom(
    grafana.transformDataFrame(panel.transformations ?? [], answer.frames, { interpolate: replaceVariables }),
  );
  const fieldConfig = { defaults: {}, overrides: [], ...panel.fieldConfig };
  const data = grafana.applyFieldOverrides({
    data: transformed,
    fieldConfig,
    fieldConfigRegistry: fieldOptions(fieldConfig),
    replaceVariables,
    theme,
    timeZone: "utc",
  });
  const panelLinks = [...(panel.links ?? [])].map(({ url, title }) => ({ title, href: replaceVariables(url) }));
  const common = {
    queries: answer.asked.map(({ target, query, series: found }) => ({ ref: target.refId, query, series: found.length })),
    step: answer.step,
    links: panelLinks,
    title: replaceVariables(panel.title),
  };
  switch (panel.type) {
    case "stat":
    case "gauge":
    case "bargauge":
      return { ...common, tiles: tiles({ ...panel, fieldConfig }, data, replaceVariables) };
    case "table":
      // Only the first frame is shown; others are behind a menu.
      return { ...common, ...rows(data[0], data), frames: data.length };
    default:
      return { ...common, series: series(data) };
  }
}

async function main() {
  const looks = JSON.parse(readFileSync(0, "utf8"));
  const answers = [];
  for (const look of looks) {
    const dashboard = JSON.parse(readFileSync(look.dashboard, "utf8"));
    const variables = await choose(dashboard, look);
    const panels = {};
    for (const panel of dashboard.panels.flatMap((panel) => [panel, ...(panel.panels ?? [])])) {
      if (panel.type === "row" || (look.panels && !look.panels.includes(panel.id))) continue;
      panels[panel.id] = await show(panel, variables, look).catch((error) => ({ error: `${error.stack ?? error}` }));
    }
    answers.push({ variables, panels });
  }
  // Numbers that JSON cannot represent.
  const exact = (_, value) => (typeof value === "number" && !Number.isFinite(value) ? String(value) : value);
  process.stdout.write(JSON.stringify(answers, exact));
}

main();
