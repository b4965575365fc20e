// Type-checks dashboards: writes each as a TypeScript value that has to satisfy Grafana's types,
// lets tsc compile it, and prints its errors with the panel that they are about.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";

// Panel types, and the modules of @grafana/schema that describe them. A row has no options.
const PANELS = {
  stat: "stat/panelcfg/x/Stat",
  table: "table/panelcfg/x/Table",
  timeseries: "timeseries/panelcfg/x/TimeSeries",
  "state-timeline": "statetimeline/panelcfg/x/StateTimeline",
  heatmap: "heatmap/panelcfg/x/Heatmap",
  bargauge: "bargauge/panelcfg/x/BarGauge",
};
// Types without settings of fields.
const NO_FIELDS = new Set(["stat", "bargauge"]);

const PRELUDE = `
import type { Dashboard, FieldConfig } from "@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen";
// JSON has the values of enumerations, not the enumerations.
type Json<T> =
  T extends string ? \`\${T}\`
  : T extends number ? (\`\${T}\` extends \`\${infer N extends number}\` ? N : never)
  : T extends boolean | null | undefined ? T
  : T extends Array<infer Item> ? Array<Json<Item>>
  : T extends object ? { [Key in keyof T]: Json<T[Key]> }
  : T;
`;

const [packages, ...files] = process.argv.slice(2);
const folder = mkdtempSync(join(packages, "check-"));
const failures = [];

/** The text of a module, and for each of its lines what it is about. */
function source(file) {
  const board = JSON.parse(readFileSync(file, "utf8"));
  const lines = [];
  const say = (text, about) => text.split("\n").forEach((line) => lines.push([line, about]));
  const satisfies = (value, type, about) => say(`void (${JSON.stringify(value, null, 1)} satisfies ${type});`, about);
  say(PRELUDE, "");
  Object.entries(PANELS).forEach(([kind, module]) =>
    say(`import type * as ${named(kind)} from "@grafana/schema/dist/esm/raw/composable/${module}PanelCfg_types.gen";`, ""),
  );
  satisfies(board, "Json<Dashboard>", "the dashboard");
  for (const panel of board.panels) {
    const about = `the panel "${panel.title}"`;
    if (panel.type === "row") continue;
    if (!(panel.type in PANELS)) {
      failures.push(`${about}: the type "${panel.type}" is not known to grafana/schema/check.mjs`);
      continue;
    }
    const kind = named(panel.type);
    const fields = NO_FIELDS.has(panel.type) ? "Record<string, never>" : `Partial<Json<${kind}.FieldConfig>>`;
    satisfies(panel.options, `Json<${kind}.Options>`, `${about}, options`);
    satisfies(panel.fieldConfig.defaults.custom ?? {}, fields, `${about}, custom fields`);
    for (const { matcher, properties } of panel.fieldConfig.overrides) {
      const where = `${about}, override of ${matcher.options}`;
      const values = Object.fromEntries(properties.map(({ id, value }) => [id, value]));
      const custom = Object.entries(values).filter(([id]) => id.startsWith("custom."));
      const general = Object.entries(values).filter(([id]) => !id.startsWith("custom."));
      satisfies(Object.fromEntries(general), "Json<FieldConfig>", where);
      satisfies(Object.fromEntries(custom.map(([id, value]) => [id.slice("custom.".length), value])), fields, where);
    }
  }
  return lines;
}

function named(kind) {
  return kind.replaceAll("-", "_");
}

try {
  const options = { strict: true, noEmit: true, skipLibCheck: true, target: "es2022", module: "esnext", moduleResolution: "bundler", types: [] };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: options, include: ["*.ts"] }));
  const modules = Object.fromEntries(files.map((file, index) => [`board${index}.ts`, [file, source(file)]]));
  for (const [module, [, lines]] of Object.entries(modules)) {
    writeFileSync(join(folder, module), lines.map(([line]) => line).join("\n"));
  }
  const tsc = spawnSync(process.execPath, [join(packages, "node_modules/typescript/bin/tsc"), "--pretty", "false"], { cwd: folder, encoding: "utf8" });
  if (tsc.error) throw tsc.error;
  for (const line of tsc.stdout.split("\n").filter(Boolean)) {
    const [, module, number, message] = line.match(/^(board\d+\.ts)\((\d+),\d+\): (.*)$/) ?? [];
    if (!module) {
      failures.push(line);
      continue;
    }
    const [file, lines] = modules[module];
    const [text, about] = lines[number - 1];
    failures.push(`${basename(file)}: ${about}: ${text.trim()}\n    ${message}`);
  }
  if (tsc.status !== 0 && failures.length === 0) failures.push(`tsc failed: ${tsc.stdout}${tsc.stderr}`);
} finally {
  rmSync(folder, { recursive: true });
}
if (failures.length > 0) {
  console.error(failures.join("\n"));
  process.exit(1);
}
console.log(`grafana/lint: ${files.length} dashboards satisfy the types of Grafana`);
