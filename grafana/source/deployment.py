"""One deployment in depth."""

from . import style
from .frame import choice, dashboard, prefect_ui, scope, values
from .links import LATE_IN_PREFECT, deployment_in_prefect, run_in_prefect
from .links import board as to
from .panels import BARS, IDENTITY, INSTANCE, STACK, TEXT, Column, graph, row, stat, table
from .select import (
    AGENT,
    COMPLETED,
    DEPLOYMENT_IS,
    FAILED,
    FLOW_IS,
    UNFINISHED,
    fresh,
    or_unknown,
    quantile,
    ratio,
    row_of,
    select,
    steps,
)
from .strip import strip

# One flow and one deployment.
THIS = (FLOW_IS, DEPLOYMENT_IS)
IN_PREFECT = deployment_in_prefect("${deployment:percentencode}")
POOLS = to("prefect-work-pools", "Show work pools and queues")


def of(metric, *matchers):
    return select(metric, *THIS, *matchers)


def finished(*matchers):
    return of("prefect_flow_runs_finished_total", *matchers)


KNOWN = f"group({of('prefect_info_deployment')})"


def none(section):
    """-1 if the agent reads what would tell."""
    return f"-1 * group({of('prefect_info_deployment')} {fresh(section)})"


NEVER = none("finished_runs")


def tiles():
    def since(matcher):
        return f"round(time() - max({of('prefect_deployment_last_run_time_seconds', matcher)})) or {NEVER}"

    paused = f"""group({of("prefect_info_deployment", 'paused="True"')})"""
    late, active = (f"sum({of(f'prefect_flow_runs_{kind}')})" for kind in ["late", "active"])
    next_run = f"round(clamp_min(min({of('prefect_deployment_next_run_time_seconds')}) - time(), 0))"
    no = {-2: ("paused", style.UNKNOWN), -1: ("none", style.UNKNOWN), 0: ("now", style.NEUTRAL)}
    narrow = {"width": 3}
    seconds = {**narrow, "unit": style.SECONDS}
    return [
        stat(
            "Last success",
            "Time since its last run that completed. never: none since the agent started counting.",
            since(COMPLETED),
            mappings=[style.NEVER],
            links=[IN_PREFECT],
            **seconds,
        ),
        stat(
            "Last failure",
            "Time since its last run that failed or crashed. never: none since the agent started counting.",
            since(FAILED),
            mappings=[style.NEVER],
            links=[IN_PREFECT],
            **seconds,
        ),
        stat(
            "Late runs",
            "Its runs that should have started but have not. The line shows the time range.",
            or_unknown(late, *UNFINISHED),
            history=late,
            steps=style.ANY_IS_BAD,
            links=[POOLS, LATE_IN_PREFECT],
            **narrow,
        ),
        stat(
            "Active runs",
            "Its runs that have not ended. The line shows the time range.",
            or_unknown(active, *UNFINISHED),
            history=active,
            links=[IN_PREFECT],
            **narrow,
        ),
        stat(
            "Success ratio",
            "Share of its finished runs that completed, in the time range and in the last hour. A question mark means that no run finished.",
            {"range": ratio(finished, "$__range"), "1 h": ratio(finished, "1h")},
            unit=style.RATIO,
            decimals=1,
            steps=style.SUCCESS,
            **narrow,
        ),
        stat(
            "Last duration",
            "Run time of its last finished run. none: no run has finished since the agent started counting.",
            f"max({of('prefect_deployment_last_run_duration_seconds')}) or {NEVER}",
            mappings=[style.values({-1: ("none", style.UNKNOWN)})],
            unit=style.CLOCK,
            decimals=1,
            **narrow,
        ),
        stat(
            "Next run in",
            "Time until its next scheduled start. none: nothing is scheduled within the agent's look-ahead (SCHEDULED_LOOKAHEAD_MINUTES). Late runs do not count.",
            f"{next_run} or -2 * {paused} or {none('scheduled_runs')}",
            mappings=[style.values(no)],
            links=[IN_PREFECT],
            **seconds,
        ),
        stat(
            "Paused",
            "Whether the deployment is paused. The schedules of a paused deployment start no runs.",
            f"{paused} or 0 * {KNOWN}",
            steps=style.ANY_IS_A_WARNING,
            links=[IN_PREFECT],
            mappings=[style.values({0: ("no", style.GOOD), 1: ("yes", style.WARNING)})],
            **narrow,
        ),
    ]


def runs():
    """The tables of single runs. The labels of a run have no time, so it is taken from values."""
    by = f"{AGENT}, flow_run_id, flow_run_name, state_name"
    ongoing = f"max by ({by}) ({of('prefect_flow_runs_ongoing_run_time')})"
    started = f"1000 * round(time() - {ongoing})"
    failed_by = f"{AGENT}, last_failed_run_id, state_name"
    failed = f"max by ({failed_by}) ({of('prefect_deployment_failed_flow_runs')})"
    seen = f"1000 * min_over_time(timestamp({failed})[$__range:1m])"
    moment = {"unit": style.MOMENT, "width": 165}
    state = {"label": "state_name", "cell": TEXT, "mappings": [style.STATE_NAMES], "width": 110}
    run = {"links": [run_in_prefect()]}
    return [
        table(
            "Runs in progress",
            "Its runs that have started but not ended. Click a run to open it in Prefect. Names require the agent's setting ENABLE_FLOW_RUN_NAME_LABEL.",
            [
                Column("Run", label="flow_run_id", least=130, **run),
                Column("Name", label="flow_run_name", least=90),
                Column("State", **state),
                Column("Started", expression=row_of(started), **moment),
                Column(
                    "Running for", expression=row_of(f"round({ongoing})"), unit=style.SECONDS, decimals=0, width=105
                ),
                INSTANCE,
                *IDENTITY,
            ],
            width=14,
            sort=[("Running for", True)],
            empty="No run is in progress, or Prefect cannot be read",
        ),
        table(
            "Newest failed and crashed runs",
            "Its newest failed and crashed runs (see FAILED_RUNS_LIMIT and FAILED_RUNS_OFFSET_MINUTES), and when the agent first reported them within the time range. Click a run to open it in Prefect.",
            [
                Column("Run", label="last_failed_run_id", least=120, **run),
                Column("State", **state),
                Column("Reported since", expression=row_of(f"{seen} and {failed}"), **moment),
                INSTANCE,
                *IDENTITY,
            ],
            width=10,
            sort=[("Reported since", True)],
            empty="No failed run is known, or Prefect cannot be read",
        ),
    ]


def over_time():
    return [
        row("Runs"),
        graph(
            "Finished runs",
            "Its runs that reached a terminal state, by its type. Each bar shows the step before it, and the bars add up to the total of the time range.",
            {"{{state_type}}": steps(finished(), "state_type")},
            width=10,
            **BARS,
            states=True,
        ),
        graph(
            "Active runs by state",
            "Its runs that have not ended, by the type of their state. SCHEDULED means awaiting retry.",
            {"{{state_type}}": f"sum by (state_type) ({of('prefect_flow_runs_active')})"},
            width=7,
            **STACK,
            states=True,
            empty="No run was active, or Prefect could not be read",
        ),
        graph(
            "Late runs by queue",
            "Its runs that should have started but have not.",
            {
                "{{work_pool_name}}/{{work_queue_name}}": f"sum by (work_pool_name, work_queue_name) ({of('prefect_flow_runs_late')})"
            },
            width=7,
            **STACK,
            empty="No run was late, or Prefect could not be read",
        ),
    ]


def how_long():
    duration = of("prefect_flow_run_duration_seconds_bucket")
    delay = of("prefect_flow_run_start_delay_seconds_bucket")
    time = {"step": "1m", "empty": "No run finished"}
    last = f"max({of('prefect_deployment_last_run_duration_seconds')})"
    return [
        row("How long does it take?"),
        graph(
            "Duration",
            "Run time of finished runs: 50 % and 95 % took no longer than this. Also shows the last run, even if it ended before the time range.",
            {"p50": quantile(0.5, duration), "p95": quantile(0.95, duration), "last run": last},
            unit=style.CLOCK,
            decimals=1,
            **time,
        ),
        graph(
            "Start delay",
            "Delay between the scheduled and the actual start of finished runs: 50 % and 95 % waited no longer than this.",
            {"p50": quantile(0.5, delay), "p95": quantile(0.95, delay)},
            unit=style.HOURS,
            **time,
        ),
        graph(
            "Retries",
            "Starts of its finished runs after their first start. Each bar shows the step before it.",
            {"retries": steps(of("prefect_flow_runs_retries_total"))},
            bars=True,
            decimals=0,
        ),
    ]


def contents():
    return [
        *strip(),
        row("$flow / $deployment"),
        *tiles(),
        *over_time(),
        *how_long(),
        row("Which runs?"),
        *runs(),
    ]


def board():
    variables = [
        *scope(),
        choice("flow", "Flow", values("flow_name", "prefect_info_deployment"), many=False),
        choice("deployment", "Deployment", values("deployment_name", "prefect_info_deployment", FLOW_IS), many=False),
        prefect_ui(),
    ]
    return dashboard(
        "prefect-deployment",
        "Prefect deployment",
        "One deployment in depth: does it run, does it succeed, how long does it take, and which runs were those?",
        start="24h",
        variables=variables,
        contents=contents(),
    )
