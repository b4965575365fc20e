"""Selectors and the expressions that are made of them."""

# Every metric of Prefect and of the agent is selected by these. The agent does not set
# prefect_workspace unless it reports more than one workspace: `.*` matches its absence.
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
    """A metric that other services have too, of the agents alone."""
    matchers = ", ".join(['job=~"$job"', 'instance=~"$instance"', *matchers])
    return f"{metric}{{{matchers}}}"


def agents_only(expression):
    return f"{expression} and on (job, instance) {select('prefect_agent_section_age_seconds')}"


UP = f"{select('prefect_up')} == 1"


def or_zero(expression):
    """Zero while Prefect is read; nothing if it is not, since then nothing is known."""
    return f"{expression} or 0 * max({UP})"


def or_unknown(expression):
    """For a value whose history is drawn too: unknown now, whatever the value was before."""
    return f"{or_zero(expression)} or NaN * absent({UP})"


def increase(selector, window):
    return f"increase({selector}[{window}])"


def ratio(selector_of, window, by=""):
    """Completed runs among those that finished; nothing where none did."""
    completed = f"sum{by}({increase(selector_of(COMPLETED), window)})"
    return f"{completed} / (sum{by}({increase(selector_of(), window)}) > 0)"


def steps(selector, by=None, only=lambda expression: expression):
    """How much a counter grew in each step of a graph: exact, without gaps or overlaps. A
    counter that starts over counts from zero. increase() would lose what falls between the
    last sample of a window and the first one of the next, and extrapolate the rest."""
    before = f"{selector} offset $__interval"
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


# Three intervals of an agent with the default SAMPLE_INTERVAL_SECONDS: then its gauges are withheld.
FRESH = 90


def fresh(section):
    """True while the agent reads this section: what is absent then does not exist."""
    age = select("prefect_agent_section_age_seconds", f'section="{section}"')
    return f"and on ({AGENT}) ({age} < {FRESH})"
