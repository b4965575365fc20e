// Interpolates variables in queries and links as Grafana does.
"use strict";

const { escapeRegex, getFieldDisplayName, getFieldDisplayValuesProxy, getDisplayProcessor, formattedValueToString } =
  require("@grafana/data");

// $name, [[name:format]], ${name.path:format}
const VARIABLE =
  /\$(\w+)|\[\[(\w+?)(?::(\w+))?\]\]|\${(\w+)((?:\.[^:^{}[\]]+|\["[^"]*"\]|\['[^']*'\]|\[[^\]"']*\])*)(?::([^}]+))?}/g;
const ALL = "$__all";

const strict = (text) => text.replace(/[!'()*]/g, (c) => "%" + c.charCodeAt(0).toString(16).toUpperCase());
const encode = (text) => strict(encodeURIComponent(String(text)));

const list = (value) => (Array.isArray(value) ? value : [value]).map(String);
const together = (values, joined) => (values.length === 1 ? values[0] : joined);

// The named formats, for one or more values.
const FORMATS = {
  raw: (value) => String(value),
  text: (value) => list(value).join(" + "),
  csv: (value) => list(value).join(","),
  pipe: (value) => list(value).join("|"),
  glob: (value) => together(list(value), `{${list(value).join(",")}}`),
  json: (value) => (typeof value === "string" ? value : JSON.stringify(value)),
  regex: (value) => {
    const escaped = list(value).map(escapeRegex);
    return together(escaped, `(${escaped.join("|")})`);
  },
  percentencode: (value) => encode(Array.isArray(value) ? `{${value.join(",")}}` : value),
  uriencode: (value) => strict(encodeURI(Array.isArray(value) ? `{${value.join(",")}}` : String(value))),
  doublequote: (value) => list(value).map((text) => `"${text.replace(/"/g, '\\"')}"`).join(","),
  queryparam: (value, name) => list(value).map((text) => `var-${name}=${encode(text)}`).join("&"),
};

// How the Prometheus data source escapes a value without a format (without the feature toggle
// prometheusSpecialCharsInLabelValues, which is disabled by default): it does not escape quotes.
function escapedForPrometheus(value, variable) {
  if (!variable.multi && !variable.includeAll) {
    return String(value).replace(/\\/g, "\\\\").replace(/'/g, "\\\\'");
  }
  const escaped = list(value).map((text) => text.replace(/\\/g, "\\\\\\\\").replace(/[$^*{}[\]+?.()|]/g, "\\\\$&"));
  return together(escaped, `(${escaped.join("|")})`);
}

// A field path: .name, ["name"], [0].
function steps(path) {
  return [...path.matchAll(/\.([^.[\]]+)|\["([^"]*)"\]|\['([^']*)'\]|\[([^\]]*)\]/g)].map((m) => m[1] ?? m[2] ?? m[3] ?? m[4]);
}

// ${__value…}, ${__field…}, ${__series…}, ${__data…} of the value that a link belongs to.
function ofData(name, path, context) {
  const { frame, field, rowIndex, calculatedValue, data } = context;
  if (name === "__value") {
    const raw = calculatedValue ? calculatedValue.numeric : field.values[rowIndex];
    const display = calculatedValue ?? (field.display ?? getDisplayProcessor())(raw);
    return { raw, numeric: display.numeric }[path[0]] ?? formattedValueToString(display);
  }
  if (name === "__series") return frame.name ?? getFieldDisplayName(field, frame, data);
  const root =
    name === "__data"
      ? { name: frame.name, refId: frame.refId, fields: getFieldDisplayValuesProxy({ frame, rowIndex }) }
      : { name: field.name, labels: field.labels ?? {}, displayName: getFieldDisplayName(field, frame, data) };
  if (name === "__data" && rowIndex === undefined) return undefined;
  const found = path.reduce((value, step) => value?.[step], root);
  // In Grafana, a missing field in a link is empty.
  return found === undefined || found === null ? "" : found;
}

// Interpolates a text. `variables` by name: {value, multi, includeAll, allValue, options}; `built`
// has variables that are not the dashboard's, such as $__interval; `fallback` is the default
// format.
function interpolate(text, { variables, built = {}, fallback = FORMATS.glob, context }) {
  if (typeof text !== "string") return text;
  return text.replace(VARIABLE, (match, plain, bracket, format1, braced, fields, format2) => {
    const name = plain ?? bracket ?? braced;
    const format = format1 ?? format2;
    if (name in built) return String(built[name]);
    if (["__value", "__data", "__field", "__series"].includes(name)) {
      const value = context && ofData(name, steps(fields ?? ""), context);
      if (value === undefined) return match;
      return (FORMATS[format] ?? fallback)(typeof value === "object" ? String(value) : value, name);
    }
    if (name === "__all_variables") {
      return Object.entries(variables)
        .map(([key, variable]) => FORMATS.queryparam(variable.all ? ALL : variable.value, key))
        .join("&");
    }
    const variable = variables[name];
    if (!variable) return match;
    if (format === "queryparam") return FORMATS.queryparam(variable.all ? ALL : variable.value, name);
    if (format === "text" && variable.all) return "All";
    if (variable.all && variable.allValue) return variable.allValue;
    if (format) {
      if (!FORMATS[format]) throw new Error(`the format ${format} of ${match} is not known here`);
      return FORMATS[format](variable.value, name);
    }
    return fallback(variable.value, variable);
  });
}

module.exports = { interpolate, escapedForPrometheus, FORMATS, ALL };
