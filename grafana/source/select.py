"""Selectors and the expressions that are made of them."""

# Every metric of a workspace is selected by these. The agent does not set prefect_workspace unless
# it reads several workspaces: `.*` matches its absence.
SCOPE = 'job=~"$job", instance=~"$instance", prefect_workspace=~"$workspace"'
AGENT = "job, instance, prefect_workspace"
DEPLOYMENT = f"{AGENT}, flow_name, deployment_name"
QUEUE = f"{AGENT}, work_pool_name, work_queue_name"

# A raw string and the format `regex` take names with quotes and backslashes, which Grafana does
# not escape in a quoted string.
FLOW_IS = "flow_name=~`${flow:regex}`"
DEPLOYMENT_IS = "deployment_name=~`${deployment:regex}`"
POOL_IS = "work_pool_name=~`${pool:regex}`"

FAILED = 'state_type=~"FAILED|CRASHED"'
COMPLETED = 'state_type="COMPLETED"'


def select(metric, *matchers):
    return f"{metric}{{{', '.join([SCOPE, *matchers])}}}"


def of_agent(metric, *matchers):
    """A metric of the agents themselves, whatever workspaces they read."""
    matchers = ", ".join(['job=~"$job"', 'instance=~"$instance"', *matchers])
    return f"{metric}{{{matchers}}}"


def agents_only(expression):
    """Of a metric that other services have too, the series of the agents."""
    return f"{expression} and on (job, instance) {select('prefect_agent_section_age_seconds')}"


# The sections of Prefect that metrics are made of: they are withheld if one of them is not read.
UNFINISHED = ("active_runs", "scheduled_runs", "deployments", "flows")
WORK_POOLS = ("work_pools",)
WORK_QUEUES = ("work_queues", "scheduled_runs")
WORKERS = ("workers", "work_pools")

# Seconds after which a section is stale and its gauges are withheld: three intervals of an agent with
# the default SAMPLE_INTERVAL_SECONDS, or INVENTORY_INTERVAL_SECONDS.
STALE = 90
STALE_INVENTORY = 180
INVENTORY = {"deployments", "flows", "work_pools", "work_queues", "workers"}


def age(section):
    return select("prefect_agent_section_age_seconds", f'section="{section}"')


def stale_after(section):
    return STALE_INVENTORY if section in INVENTORY else STALE


def fresh(*sections):
    """For each agent, true while it reads these sections: what is absent then does not exist."""
    return " ".join(f"and on ({AGENT}) ({age(one)} < {stale_after(one)})" for one in sections)


def read(*sections):
    """True while every agent reads all of these sections."""
    ages = [f"max({age(one)}) < {stale_after(one)}" for one in sections]
    return " and ".join([f"min({select('prefect_up')}) == 1", *ages])


def or_zero(expression, *sections):
    """Zero while these sections are read; nothing if they are not, since then nothing is known."""
    return f"{expression} or 0 * ({read(*sections)})"


def or_unknown(expression, *sections):
    """For a value whose history is drawn too: unknown now, whatever the value was before."""
    return f"{or_zero(expression, *sections)} or NaN * absent({read(*sections)})"


def workers_online(served=""):
    """How many workers of the chosen pools are online; and the same for a tile: zero is known only
    if there is a pool that needs a worker, which push and managed pools do not."""
    online = select("prefect_worker_status", POOL_IS, 'worker_status="ONLINE"')
    needs = select("prefect_info_work_pools", POOL_IS, 'type!~".+:(push|managed)"')
    count = f"count({online} == 1{served})"
    zero = f"0 * (count({needs}{served}) and {read(*WORKERS)})"
    return count, f"{count} or {zero} or NaN * absent({zero})"


def increase(selector, window):
    return f"increase({selector}[{window}])"


def ratio(selector_of, window, by=""):
    """Completed runs among those that finished; nothing where none did."""
    completed = f"sum{by}({increase(selector_of(COMPLETED), window)})"
    return f"{completed} / (sum{by}({increase(selector_of(), window)}) > 0)"


def steps(selector, by=None, only=lambda expression: expression):
    """How much a counter grew in each step of a graph: exact, without gaps or overlaps. A
    counter that starts over counts from zero. increase() would lose what falls between the
    last sample of a window and the first one of the next, and extrapolate the rest. After an
    outage of up to an hour, the first step has what happened during it."""
    before = f"last_over_time({selector}[1h] offset $__interval)"
    grew = only(f"(({selector} - {before} >= 0) or ({selector} and {before}))")
    return f"sum by ({by}) ({grew})" if by else f"sum({grew})"


def quantile(q, selector, by="", only=lambda expression: expression):
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) ({only(f'rate({selector}[$__rate_interval])')}))"


def of_pools(expression, *matchers):
    """For a metric of deployments that has no work pool: those that had runs in the chosen
    ones."""
    return f"({expression} and on ({DEPLOYMENT}) {select('prefect_flow_runs_finished_total', *matchers)})"


def row_of(expression):
    """Gives every row a workspace for its links: `.*`, which they turn into "All", where there is
    none. The label `workspace` is for people, and absent in that case."""
    shown = f'label_replace({expression}, "workspace", "$1", "prefect_workspace", "(.+)")'
    return f'label_replace({shown}, "prefect_workspace", ".*", "prefect_workspace", "")'


# The legend of a concurrency limit.
LIMIT = "{{concurrency_limit_kind}} {{concurrency_limit_name}}"


def slots(metric, *matchers):
    """The share of a limit that is in use. A limit of 0, of which there is no share, is left out."""
    active, limit = (select(metric, *matchers, f'slot_kind="{kind}"') for kind in ["active", "limit"])
    return f"{active} / ignoring (slot_kind) ({limit} > 0)"
