"""Is Prefect healthy now, and if not, where?"""

from . import style
from .frame import choice, dashboard, prefect_ui, scope, values
from .links import FAILED_IN_PREFECT, LATE_IN_PREFECT, in_prefect
from .links import board as to
from .panels import BARS, STACK, graph, row, stat, timeline
from .rows import deployments
from .select import (
    AGENT,
    DEPLOYMENT_IS,
    FAILED,
    FLOW_IS,
    LIMIT,
    POOL_IS,
    UNFINISHED,
    increase,
    of_pools,
    or_unknown,
    quantile,
    ratio,
    select,
    slots,
    steps,
    workers_online,
)
from .strip import strip

THESE = (FLOW_IS, DEPLOYMENT_IS, POOL_IS)
# Metrics without a work pool.
THOSE = (FLOW_IS, DEPLOYMENT_IS)
POOLS = to("prefect-work-pools", "Show work pools and queues")
RUNS = in_prefect("Show runs in Prefect", "/runs")
ALERT_LABELS = '"flow_name", "deployment_name", "work_pool_name", "work_queue_name", "concurrency_limit_name", "section", "metric", "exporter"'


def finished(*matchers):
    return select("prefect_flow_runs_finished_total", *THESE, *matchers)


def tiles():
    late, active = (f"sum({select(f'prefect_flow_runs_{kind}', *THESE)})" for kind in ["late", "active"])
    served = f" and on ({AGENT}, work_pool_name) {select('prefect_info_deployment', *THESE)}"
    online, or_none = workers_online(served)

    def range_and_hour(expression):
        return {"range": expression("$__range"), "1 h": expression("1h")}

    return [
        stat(
            "Success ratio",
            "Share of finished runs that completed, in the time range and in the last hour. A question mark means that no run finished.",
            range_and_hour(lambda window: ratio(finished, window)),
            unit=style.RATIO,
            decimals=1,
            steps=style.SUCCESS,
            links=[RUNS],
        ),
        stat(
            "Failed runs",
            "Runs that failed or crashed, in the time range and in the last hour. A run that is retried manually and fails again counts twice.",
            range_and_hour(lambda window: f"round(sum({increase(finished(FAILED), window)}))"),
            steps=style.FAILURES,
            links=[FAILED_IN_PREFECT],
        ),
        stat(
            "Late runs",
            "Runs that should have started but have not. The line shows the time range.",
            or_unknown(late, *UNFINISHED),
            history=late,
            steps=style.ANY_IS_BAD,
            links=[POOLS, LATE_IN_PREFECT],
        ),
        stat(
            "Active runs",
            "Runs pending, running, paused, cancelling or awaiting retry. The line shows the time range.",
            or_unknown(active, *UNFINISHED),
            history=active,
            links=[RUNS],
        ),
        stat(
            "Workers online",
            "Online workers in the work pools of the selected deployments. A question mark: none of these needs a worker (push and managed pools do not), or it is not known. The line shows the time range.",
            or_none,
            history=online,
            steps=style.NONE_IS_BAD,
            links=[POOLS],
        ),
        stat(
            "Finished runs",
            "Runs that reached a terminal state, in the time range and in the last hour.",
            range_and_hour(lambda window: f"round(sum({increase(finished(), window)}))"),
            links=[RUNS],
        ),
    ]


def alerts():
    firing = 'ALERTS{alertstate="firing", alertname=~"Prefect.+", job=~"$job|", instance=~"$instance|", prefect_workspace=~"$workspace|"}'
    subject = f'label_join({firing}, "subject", " ", {ALERT_LABELS})'
    # Without the spaces of labels that the alert does not have, and without "Prefect".
    subject = f'label_replace({subject}, "subject", "$1", "subject", " *(.*?) *")'
    subject = f'label_replace({subject}, "alert", "$1", "alertname", "Prefect(.+)")'
    return timeline(
        "Firing alerts",
        "Firing alerts of alerts.yml, with the objects that they are about. The prefix Prefect of their names is left out. Each alert has a runbook.",
        f"max by (alert, subject, {AGENT}) ({subject})",
        "{{alert}} {{subject}}",
        "firing",
        style.BAD,
        empty="No alert is firing, or Prometheus has no rules",
    )


def in_pools(expression):
    return of_pools(expression, *THESE)


def what_happens():
    return [
        row("Runs"),
        graph(
            "Finished runs",
            "Runs that reached a terminal state, by its type. Each bar shows the step before it, and the bars add up to the total of the time range.",
            {"{{state_type}}": steps(finished(), "state_type")},
            width=12,
            **BARS,
            states=True,
        ),
        graph(
            "Active runs by state",
            "Runs that have not ended, by the type of their state. SCHEDULED means awaiting retry.",
            {"{{state_type}}": f"sum by (state_type) ({select('prefect_flow_runs_active', *THESE)})"},
            width=6,
            **STACK,
            states=True,
            empty="No run was active, or Prefect could not be read",
        ),
        graph(
            "Late runs by pool",
            "Runs that should have started but have not, by work pool.",
            {"{{work_pool_name}}": f"sum by (work_pool_name) ({select('prefect_flow_runs_late', *THESE)})"},
            width=6,
            **STACK,
            empty="No run was late, or Prefect could not be read",
        ),
    ]


def how_long():
    duration = select("prefect_flow_run_duration_seconds_bucket", *THOSE)
    delay = select("prefect_flow_run_start_delay_seconds_bucket", *THESE)
    three = [0.5, 0.95, 0.99]
    wide = {"width": 12, "step": "1m", "empty": "No run finished"}
    return [
        row("How long does it take?"),
        graph(
            "Duration of runs",
            "Run time of finished runs: 50 %, 95 % and 99 % took no longer than this.",
            {f"p{q * 100:.0f}": quantile(q, duration, only=in_pools) for q in three},
            unit=style.CLOCK,
            decimals=1,
            **wide,
        ),
        graph(
            "Start delay",
            "Delay between the scheduled and the actual start of finished runs: 50 %, 95 % and 99 % waited no longer than this.",
            {f"p{q * 100:.0f}": quantile(q, delay) for q in three},
            unit=style.HOURS,
            **wide,
        ),
    ]


def tasks_and_limits():
    tasks = select("prefect_task_run_duration_seconds_bucket")
    none = "No task runs are counted: set TASK_RUNS_ENABLED"
    return [
        row("Tasks, limits and automations"),
        graph(
            "Finished task runs",
            "Task runs that reached a terminal state, by its type (requires TASK_RUNS_ENABLED). Each bar shows the step before it.",
            {"{{state_type}}": steps(select("prefect_task_runs_finished_total"), "state_type")},
            **BARS,
            states=True,
            empty=none,
        ),
        graph(
            "Duration of tasks, p95",
            "Run time of finished task runs by task: 95 % took no longer than this (requires TASK_RUNS_ENABLED).",
            {"{{task_name}}": quantile(0.95, tasks, "task_name")},
            empty=none,
            unit=style.CLOCK,
            decimals=1,
            step="1m",
        ),
        graph(
            "Concurrency limits",
            "Share of each concurrency limit (global or by tag) that is in use.",
            {LIMIT: slots("prefect_concurrency_limit_slots")},
            width=5,
            unit=style.RATIO,
            maximum=1,
            empty="There is no concurrency limit",
        ),
        graph(
            "Automations",
            "Automations by whether they are enabled.",
            {"enabled: {{enabled}}": f"sum by (enabled) ({select('prefect_automations')})"},
            width=3,
            decimals=0,
        ),
    ]


def workspace():
    return [
        row("The workspace"),
        graph(
            "Runs of the last 24 hours by state",
            "All runs of the workspace, by the type of their state, as the Prefect server counts them. Not filtered by flow, deployment and work pool.",
            {"{{state_type}}": f"sum by (state_type) ({select('prefect_flow_runs_by_state')})"},
            width=12,
            height=7,
            **STACK,
            states=True,
        ),
        graph(
            "Retries",
            "Starts of finished runs after their first start, by flow. Each bar shows the step before it.",
            {"{{flow_name}}": steps(select("prefect_flow_runs_retries_total", *THOSE), "flow_name", in_pools)},
            width=12,
            height=7,
            **BARS,
        ),
    ]


def contents():
    return [
        *strip(),
        row("Is it healthy now?"),
        *tiles(),
        alerts(),
        row("Which deployments?"),
        deployments(),
        *what_happens(),
        *how_long(),
        *tasks_and_limits(),
        *workspace(),
    ]


def board():
    variables = [
        *scope(),
        choice("flow", "Flow", values("flow_name", "prefect_info_deployment")),
        choice("deployment", "Deployment", values("deployment_name", "prefect_info_deployment", FLOW_IS)),
        choice("pool", "Work pool", values("work_pool_name", "prefect_info_work_pools")),
        prefect_ui(),
    ]
    return dashboard(
        "prefect-overview",
        "Prefect overview",
        "Is Prefect healthy now, and if not, where? Problems are shown at the top, their causes below.",
        start="6h",
        variables=variables,
        contents=contents(),
    )
