// Shows the data of /status, and fetches it again at the sample interval. Addresses are relative,
// because a proxy may serve the agent under a path.

const RETRY_SECONDS = 5;
const PATIENCE_SECONDS = 10;
const LONGEST_WAIT_SECONDS = 60;
const HOUR = 3600;

const byId = (id) => document.getElementById(id);
let report = null; // the last answer
let fetched = null; // when it was received, by performance.now()
let ageThen = 0; // its age in seconds when it was received
let silentSince = null; // when the agent stopped answering

// --- Text.

const count = (number) => (number === null ? "–" : number.toLocaleString("en-US"));
const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many || one + "s"}`;
const words = (name) => name.replaceAll("_", " ");

function span(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  return age(seconds);
}

function age(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  if (whole < 7200) return `${Math.floor(whole / 60)} min`;
  if (whole < 172800) return `${Math.floor(whole / HOUR)} h ${Math.floor((whole % HOUR) / 60)} min`;
  return `${Math.floor(whole / 86400)} d`;
}

// Seconds since the answer was published, which are added to all ages.
const sincePublished = () => ageThen + (performance.now() - fetched) / 1000;
// Times are the agent's, so they are compared with its clock, not with the browser's.
const ago = (time) => {
  const then = (Date.parse(report.published) - Date.parse(time)) / 1000;
  return age(then + sincePublished()) + " ago";
};
const clock = (time) => new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

// --- The parts of the page.

const LOOKS = {
  starting: ["", "Starting", "#808894"],
  healthy: ["ok", "Healthy", "#1a7f37"],
  degraded: ["warn", "Degraded", "#b7791f"],
  down: ["bad", "Prefect cannot be read", "#c1272d"],
  silent: ["bad", "The agent does not answer", "#c1272d"],
};

function overall() {
  const condition = silentSince === null ? report.status : "silent";
  const [look, text, color] = LOOKS[condition] || LOOKS.starting;
  setClass(byId("dot"), `dot ${look}`);
  setText(byId("overall"), text);
  setText(document.querySelector("title"), `${text} – prefect-otel-agent`);
  const icon = `<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><circle cx='8' cy='8' r='6' fill='${color}'/></svg>`;
  setAttribute(byId("icon"), "href", "data:image/svg+xml," + encodeURIComponent(icon));
  byId("main").classList.toggle("old", condition === "silent");
  if (condition === "silent") {
    const shown = report === null ? "" : ` The page shows what it reported at ${clock(report.published)}.`;
    const seconds = (performance.now() - (fetched || silentSince)) / 1000;
    setText(byId("since"), `It has not answered for ${age(seconds)}. The page keeps trying.${shown}`);
    return;
  }
  const prefect = report.prefect.version === null ? "Prefect" : `Prefect ${report.prefect.version}`;
  setText(byId("since"), `${prefect} at ${report.prefect.api_url} · updated ${age(sincePublished())} ago`);
}

// The other workspaces of the agent, if there are several.
function workspaces() {
  const create = () => {
    const item = document.createElement("li");
    const link = make("a", "", item);
    make("span", "dot", link).setAttribute("aria-hidden", "true");
    make("span", "", link);
    make("small", "", link);
    return item;
  };
  list(byId("workspaces"), report.workspaces, ({ name }) => name, create, (item, { name, status }) => {
    const [look, text] = LOOKS[status] || LOOKS.starting;
    const [link] = item.children;
    setAttribute(link, "href", `?workspace=${encodeURIComponent(name)}`);
    setAttribute(link, "aria-current", name === report.name ? "page" : null);
    setClass(link.children[0], `dot ${look}`);
    setText(link.children[1], name);
    setText(link.children[2], status === "healthy" ? "" : text);
  });
}

function problems() {
  const looks = { critical: "bad", warning: "warn", info: "" };
  const names = { critical: "Critical", warning: "Warning", info: "Note" };
  const create = () => {
    const item = document.createElement("li");
    const title = make("p", "", item);
    make("strong", "", title);
    make("small", "", title);
    make("span", "code detail", item);
    const advice = make("p", "", item);
    make("span", "", advice);
    make("a", "code", advice);
    return item;
  };
  list(byId("problems"), report.problems, (problem) => problem.title, create, (item, problem) => {
    setClass(item, looks[problem.severity]);
    const [title, detail, advice] = item.children;
    setText(title.children[0], `${names[problem.severity]}: ${problem.title}`);
    setText(title.children[1], problem.since === null ? "" : `since ${clock(problem.since)}, ${ago(problem.since)}`);
    detail.hidden = problem.detail === null;
    setText(detail, problem.detail || "");
    setText(advice.children[0], `${problem.advice} Runbook: `);
    setText(advice.children[1], problem.runbook);
    setLink(advice.children[1], problem.runbook_url);
  });
}

function tiles() {
  const { workspace, deployments } = report;
  const troubled = deployments === null ? null : deployments.troubled.length + deployments.omitted;
  const workers = workspace.workers === null ? "–" : `${count(workspace.workers_online)} of ${count(workspace.workers)}`;
  const all = [
    ["Deployments", count(workspace.deployments)],
    ["Failing or late", count(troubled), troubled > 0],
    ["Active runs", count(workspace.active_runs)],
    ["Late runs", count(workspace.late_runs), workspace.late_runs > 0],
    ["Flows", count(workspace.flows)],
    ["Work pools", count(workspace.work_pools)],
    ["Work queues", count(workspace.work_queues)],
    ["Workers online", workers],
  ];
  const create = () => {
    const tile = document.createElement("div");
    make("dt", "", tile);
    make("dd", "", tile);
    return tile;
  };
  list(byId("tiles"), all, ([name]) => name, create, (tile, [name, value, isBad]) => {
    setText(tile.children[0], name);
    setText(tile.children[1], value);
    setClass(tile.children[1], isBad ? "bad" : "");
  });
}

function deployments() {
  const { deployments: found } = report;
  rows("deployments", found === null ? [] : found.troubled, (row) => row.url || `${row.flow_name}/${row.deployment_name}`, (row) => [
    { text: row.deployment_name, small: row.flow_name, link: row.url },
    { text: count(row.late_runs), className: row.late_runs > 0 ? "bad" : "" },
    row.late_since === null ? "–" : ago(row.late_since),
    row.last_run_state === null ? "unknown" : {
      text: row.last_run_state,
      className: stateLook(row.last_run_state),
      small: row.last_run_ended && ago(row.last_run_ended),
    },
    { text: count(row.failed_runs), link: row.failed_runs > 0 ? row.last_failed_run_url : null },
  ], ["", "n", "spare", "", "n"]);
  const known = "Only runs that ended while the agent was running (with STATE_DIR: since the checkpoint was created) are known.";
  setText(byId("deployments-text"), found === null
    ? "Withheld: deployments or runs have not been read recently."
    : found.troubled.length === 0
      ? `None. ${known}`
      : found.omitted > 0 ? `${count(found.omitted)} more ${found.omitted === 1 ? "is" : "are"} not shown.` : "");
}

function stateLook(type) {
  return { COMPLETED: "ok", FAILED: "bad", CRASHED: "bad" }[type] || "";
}

function runStates(id, found) {
  const most = found === null ? 0 : Math.max(1, ...found.states.map((state) => state.runs));
  rows(id, found === null ? [] : found.states, (state) => `${state.state_type} ${state.state_name}`, (state) => [
    { text: state.state_name, small: state.state_name.toUpperCase() === state.state_type ? "" : state.state_type },
    {
      text: count(state.runs),
      share: state.runs / most,
      className: state.state_name === "Late" ? "warn" : stateLook(state.state_type),
    },
  ], ["", ""]);
  setText(byId(`${id}-text`), found === null
    ? "Withheld: not read recently."
    : found.states.length === 0
      ? "None."
      : found.omitted_states > 0 ? `${plural(found.omitted_runs, "run")} in ${plural(found.omitted_states, "other state")}.` : "");
}

function sections() {
  const looks = { fresh: "ok", failing: "warn", stale: "bad", unread: "idle", absent: "idle" };
  const texts = { fresh: "fresh", failing: "failing", stale: "stale, withheld", unread: "not read yet", absent: "not in this API" };
  const grown = sincePublished();
  rows("sections", report.sections, (row) => row.section, (row) => [
    words(row.section),
    { text: texts[row.state], className: looks[row.state], small: row.lag_seconds > 60 ? `${age(row.lag_seconds)} behind` : "" },
    age(row.age_seconds + grown),
    { text: count(row.errors), className: row.errors > 0 && row.state !== "fresh" ? "bad" : "" },
  ], ["", "", "n", "n"]);
}

function requests() {
  rows("requests", report.requests, (row) => `${row.method} ${row.path}`, (row) => [
    { text: `${row.method} ${row.path}`, code: true },
    count(row.requests),
    span(row.mean_seconds),
    {
      text: count(row.errors),
      className: row.errors > 0 ? "bad" : "",
      small: row.last_error === null ? "" : `${row.last_error}, ${ago(row.last_error_time)}`,
    },
  ], ["", "n", "n spare", "n"]);
}

function exporters() {
  rows("exporters", report.exporters, (row) => row.exporter, (row) => [
    { text: row.exporter, small: row.target },
    {
      text: row.last_success === null ? "never" : ago(row.last_success),
      className: row.failing ? "bad" : row.last_success === null ? "idle" : "ok",
      small: row.pushes === null ? "last scrape" : "",
    },
    row.last_error === null ? "–" : { text: row.last_error, small: ago(row.last_error_time), className: row.failing ? "bad" : "" },
    count(row.pushes && row.pushes.success),
    count(row.pushes && row.pushes.failure),
  ], ["", "", "long", "n spare", "n spare"]);
  setText(byId("exporters-text"), report.exporters.length === 0 ? "None: OTEL_METRICS_EXPORTER is none." : "");
}

function series() {
  const all = report.series.reduce((sum, row) => sum + row.series, 0);
  setText(byId("series-text"), `${plural(all, "series", "series")} in ${plural(report.series.length, "metric")}, without histograms`);
  rows("series", report.series, (row) => row.metric, (row) => [
    { text: row.metric, code: true },
    count(row.series),
    { text: count(row.dropped), className: row.dropped > 0 ? "bad" : "" },
  ], ["", "n", "n"]);
}

function links() {
  for (const [name, url] of [["prefect", report.links.prefect], ["metrics", report.links.metrics && "metrics"], ["docs", report.links.documentation]]) {
    const link = byId(`link-${name}`);
    link.hidden = url === null;
    setLink(link, url);
  }
  const { agent } = report;
  setText(byId("version"), agent.version);
  const memory = agent.memory_bytes === null ? "" : ` · ${Math.round(agent.memory_bytes / 1048576)} MiB of memory`;
  const cpu = agent.cpu_seconds === null ? "" : ` · ${span(agent.cpu_seconds)} of CPU time`;
  setText(byId("footer"), `Up for ${age(agent.uptime_seconds)} · a cycle every ${age(agent.sample_interval_seconds)}, the inventory every ${age(agent.inventory_interval_seconds)}${memory}${cpu}`);
}

// Updates the texts that change with time, every second.
function tick() {
  if (report === null && silentSince === null) return;
  overall();
  if (report === null || silentSince !== null) return;
  problems();
  sections();
  deployments();
  requests();
  exporters();
}

function show() {
  tick();
  workspaces();
  tiles();
  chart();
  runStates("unfinished", report.flow_runs.unfinished);
  runStates("day", report.flow_runs.last_24_hours);
  series();
  links();
  setAttribute(byId("main"), "aria-busy", "false");
}

// --- Updates.

async function load() {
  const signal = AbortSignal.timeout(PATIENCE_SECONDS * 1000);
  const answer = await fetch(`status${location.search}`, { signal, cache: "no-store" });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const next = await answer.json();
  const date = Date.parse(answer.headers.get("date"));
  ageThen = Number.isNaN(date) ? 0 : Math.max(0, (date - Date.parse(next.published)) / 1000);
  [report, fetched] = [next, performance.now()];
}

let timer = null;

async function update() {
  clearTimeout(timer);
  let wait = RETRY_SECONDS;
  try {
    await load();
    silentSince = null;
    wait = Math.min(LONGEST_WAIT_SECONDS, report.agent.sample_interval_seconds);
  } catch {
    silentSince = silentSince === null ? performance.now() : silentSince;
  }
  clearTimeout(timer);
  timer = setTimeout(update, wait * 1000);
  if (silentSince === null) show();
  else tick();
}

setInterval(tick, 1000);
addEventListener("resize", () => report && chart());
document.addEventListener("visibilitychange", () => document.hidden || update());
update();
