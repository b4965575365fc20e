"""The table of deployments, and expressions that overview and deployment share."""

from . import style
from .links import ROW, board, deployment_in_prefect, field
from .panels import CELL, GAUGE, IDENTITY, TEXT, Column, table
from .select import (
    COMPLETED,
    DEPLOYMENT,
    DEPLOYMENT_IS,
    FAILED,
    FLOW_IS,
    POOL_IS,
    UNFINISHED,
    fresh,
    increase,
    ratio,
    row_of,
    select,
)

THESE = (FLOW_IS, DEPLOYMENT_IS, POOL_IS)
BY = f" by ({DEPLOYMENT}) "


def finished(*matchers):
    return select("prefect_flow_runs_finished_total", *THESE, 'deployment_name!="null"', *matchers)


def of_deployments():
    """The columns' expressions: a row for each deployment that is known, or that was counted."""
    known = f"group{BY}({select('prefect_info_deployment', *THESE)})"
    counted = f"sum{BY}({finished()})"
    # -1 stands for "none", if the runs that would tell are being read; NaN for "unknown".
    none = f"-1 * ({known} {fresh('finished_runs')})"
    unknown = f"NaN * ({known} or {counted})"

    def count(metric):
        return f"sum{BY}({select(metric, *THESE)}) or 0 * ({known} {fresh(*UNFINISHED)}) or {unknown}"

    def of_known(expression, otherwise=none):
        return f"{expression} and on ({DEPLOYMENT}) {known} or {otherwise} or {unknown}"

    last = select("prefect_deployment_last_run_time_seconds", FLOW_IS, DEPLOYMENT_IS, COMPLETED)
    duration = select("prefect_deployment_last_run_duration_seconds", FLOW_IS, DEPLOYMENT_IS)
    next_run = select("prefect_deployment_next_run_time_seconds", FLOW_IS, DEPLOYMENT_IS)
    paused = f"""-2 * group{BY}({select("prefect_info_deployment", *THESE, 'paused="True"')})"""
    return {
        "late": count("prefect_flow_runs_late"),
        "failures": f"round(sum{BY}({increase(finished(FAILED), '$__range')}))",
        "success": ratio(finished, "$__range", BY),
        "last_success": of_known(f"round(time() - max{BY}({last}))"),
        "active": count("prefect_flow_runs_active"),
        "duration": of_known(f"max{BY}({duration})"),
        "next": of_known(f"round(clamp_min(min{BY}({next_run}) - time(), 0))", f"{paused} or -1 * ({known} {fresh('scheduled_runs')})"),
    }


def deployments():
    expressions = {name: row_of(text) for name, text in of_deployments().items()}
    show = [
        board("prefect-deployment", "Show this deployment", ROW, flow=field("Flow"), deployment=field("Deployment")),
        deployment_in_prefect(field("Deployment")),
    ]
    never = [style.NEVER]
    none = [style.values({-1: ("none", style.UNKNOWN)})]
    following = [style.values({-2: ("paused", style.UNKNOWN), -1: ("none", style.UNKNOWN), 0: ("now", style.PLAIN)})]
    seconds = {"unit": style.SECONDS, "decimals": 0, "cell": TEXT}
    columns = [
        Column("Deployment", label="deployment_name", links=show),
        Column("Flow", label="flow_name", links=show[:1]),
        Column(
            "Late",
            expression=expressions["late"],
            width=70,
            cell=CELL,
            decimals=0,
            steps=[(0, "transparent"), (1, style.WARNING), (10, style.BAD)],
        ),
        Column(
            "Failures",
            expression=expressions["failures"],
            width=90,
            cell=CELL,
            decimals=0,
            steps=[(0, "transparent"), (1, style.WARNING)],
        ),
        Column(
            "Success",
            expression=expressions["success"],
            width=140,
            unit=style.RATIO,
            decimals=1,
            steps=style.SUCCESS,
            cell=GAUGE,
            absent="-",
            min=0,
            max=1,
        ),
        Column("Last success", expression=expressions["last_success"], width=110, mappings=never, **seconds),
        Column("Active", expression=expressions["active"], width=70, decimals=0),
        Column(
            "Last duration",
            expression=expressions["duration"],
            width=110,
            unit=style.CLOCK,
            decimals=1,
            cell=TEXT,
            mappings=none,
        ),
        Column("Next run in", expression=expressions["next"], width=100, mappings=following, **seconds),
        Column("Instance", label="instance", width=110),
        *IDENTITY,
    ]
    return table(
        "Deployments",
        "Worst first: sorted by late runs, then by failed and crashed runs in the time range, then by success ratio (a dash: no run finished in the time range). never: no success since the agent started counting. A grey question mark: currently unknown. Runs without a deployment are not included.",
        columns,
        height=11,
        sort=[("Late", True), ("Failures", True), ("Success", False)],
        empty="No deployment is known",
    )
