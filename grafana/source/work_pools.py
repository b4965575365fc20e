"""Who does the work, and does it keep up?"""

from . import style
from .frame import choice, dashboard, prefect_ui, scope, values
from .links import LATE_IN_PREFECT, ROW, field, in_prefect, pool_in_prefect, queue_in_prefect
from .links import board as to
from .panels import CELL, IDENTITY, INSTANCE, STACK, TEXT, Column, graph, row, stat, table
from .select import (
    AGENT,
    LIMIT,
    POOL_IS,
    QUEUE,
    UNFINISHED,
    WORK_POOLS,
    WORK_QUEUES,
    or_unknown,
    or_zero,
    quantile,
    row_of,
    select,
    slots,
    workers_online,
)
from .strip import strip

QUEUE_NAME = "{{work_pool_name}}/{{work_queue_name}}"
POOLS = in_prefect("Show work pools in Prefect", "/work-pools")
LIMITS = in_prefect("Show concurrency limits in Prefect", "/concurrency-limits")


def of(metric, *matchers):
    return select(metric, POOL_IS, *matchers)


def tiles():
    online, or_none = workers_online()
    late = f"sum({of('prefect_flow_runs_late')})"
    unhealthy = f"""count({of("prefect_info_work_queues", 'healthy="False"', 'is_paused="False"')})"""
    paused = " + ".join(
        f"({or_zero(f'count({of(metric)} == 0)', *sections)})"
        for metric, sections in [("prefect_info_work_pools", WORK_POOLS), ("prefect_info_work_queues", WORK_QUEUES)]
    )
    share = {"unit": style.RATIO, "steps": style.SATURATION}
    return [
        stat(
            "Workers online",
            "Online workers of the selected pools. A question mark: no pool needs a worker (push and managed pools do not), or it is not known. The line shows the time range.",
            or_none,
            history=online,
            steps=style.NONE_IS_BAD,
            links=[POOLS],
        ),
        stat(
            "Late runs",
            "Runs of the selected pools that should have started but have not. The line shows the time range.",
            or_unknown(late, *UNFINISHED),
            history=late,
            steps=style.ANY_IS_BAD,
            links=[LATE_IN_PREFECT],
        ),
        stat(
            "Unhealthy queues",
            "Queues that are not paused and have late runs, or that no worker has polled within the last minute. Unused queues are also unhealthy.",
            or_unknown(unhealthy, *WORK_QUEUES),
            history=unhealthy,
            steps=style.ANY_IS_A_WARNING,
            links=[POOLS],
        ),
        stat("Paused", "Pools and queues that are paused.", paused, steps=style.ANY_IS_A_WARNING, links=[POOLS]),
        stat(
            "Fullest pool",
            "The highest share of a pool's concurrency limit that is in use. A question mark means that no pool has a limit, or that the share is unknown.",
            f"max({slots('prefect_work_pool_slots', POOL_IS)})",
            links=[POOLS],
            **share,
        ),
        stat(
            "Fullest limit",
            "The highest share of a concurrency limit (global or by tag) that is in use. Not filtered by work pool. A question mark means that there is no limit, or that the share is unknown.",
            f"max({slots('prefect_concurrency_limit_slots')})",
            links=[LIMITS],
            **share,
        ),
    ]


def queues():
    late = of("prefect_work_queues_late_runs_count")
    polled = f"max by ({QUEUE}) ({of('prefect_work_queue_last_polled_time_seconds')})"
    listed = f"group by ({QUEUE}) ({of('prefect_info_work_queues')})"
    labels = "healthy, status, is_paused, priority"
    pool = to("prefect-work-pools", "Show only this pool", ROW, pool=field("Pool"))
    yes_no = {"cell": TEXT, "width": 110}
    return table(
        "Queues",
        "The late runs of each queue, its health (unhealthy if it has late runs, or if no worker has polled it within the last minute) and the time since a worker last polled it. never: no worker has polled it.",
        [
            Column("Pool", label="work_pool_name", links=[pool, pool_in_prefect()]),
            Column("Queue", label="work_queue_name", links=[queue_in_prefect()]),
            Column(
                "Late",
                expression=row_of(f"max by ({QUEUE}, {labels}) ({late})"),
                width=60,
                decimals=0,
                cell=CELL,
                steps=[(0, "transparent"), (1, style.WARNING), (10, style.BAD)],
            ),
            Column(
                "Health",
                label="healthy",
                mappings=[style.values({"True": ("healthy", style.GOOD), "False": ("unhealthy", style.WARNING)})],
                **yes_no,
            ),
            Column("Status", label="status", width=120),
            Column(
                "Paused",
                label="is_paused",
                mappings=[style.values({"True": ("yes", style.WARNING), "False": ("no", style.PLAIN)})],
                cell=TEXT,
                width=70,
            ),
            Column("Priority", label="priority", width=70),
            Column(
                "Last poll",
                expression=row_of(f"round(time() - {polled}) and on ({QUEUE}) {listed} or {style.LONG_AGO:.0e} * {listed}"),
                unit=style.SECONDS,
                decimals=0,
                width=85,
                cell=TEXT,
                # Before all others: it is as good as the longest time.
                mappings=[style.long_ago("never", style.UNKNOWN)],
            ),
            INSTANCE,
            *IDENTITY,
        ],
        height=8,
        sort=[("Late", True), ("Last poll", True)],
        empty="No queue is known, or Prefect cannot be read",
    )


def workers():
    worker = f"{AGENT}, work_pool_name, worker_name"
    heartbeat = f"max by ({worker}) ({of('prefect_worker_last_heartbeat_time_seconds')})"
    status = f"max by ({worker}, worker_status) ({of('prefect_worker_status')} == 1)"
    age = f"round(time() - {heartbeat}) * on ({worker}) group_left (worker_status) {status}"
    return table(
        "Workers",
        "Each worker's status and the age of its last heartbeat. Workers without a heartbeat for more than a day are left out.",
        [
            Column("Pool", label="work_pool_name", links=[pool_in_prefect()]),
            Column("Worker", label="worker_name"),
            Column(
                "Status",
                label="worker_status",
                width=110,
                cell=TEXT,
                mappings=[style.values({"ONLINE": ("ONLINE", style.GOOD), "OFFLINE": ("OFFLINE", style.BAD)})],
            ),
            Column("Heartbeat", expression=row_of(age), unit=style.SECONDS, decimals=0, width=110),
            INSTANCE,
            *IDENTITY,
        ],
        height=7,
        sort=[("Heartbeat", True)],
        empty="No worker is known, or Prefect cannot be read",
    )


def work():
    poll = f"max by (work_pool_name, work_queue_name) (time() - {of('prefect_work_queue_last_polled_time_seconds')})"
    return [
        row("Work"),
        graph(
            "Active runs by pool",
            "Runs that have not ended.",
            {"{{work_pool_name}}": f"sum by (work_pool_name) ({of('prefect_flow_runs_active')})"},
            width=6,
            **STACK,
            empty="No run was active, or Prefect could not be read",
        ),
        graph(
            "Late runs by queue",
            "Runs that should have started but have not.",
            {QUEUE_NAME: f"sum by (work_pool_name, work_queue_name) ({of('prefect_flow_runs_late')})"},
            width=6,
            **STACK,
            empty="No run was late, or Prefect could not be read",
        ),
        graph(
            "Start delay by pool, p95",
            "Delay between the scheduled and the actual start of finished runs: 95 % waited no longer than this.",
            {"{{work_pool_name}}": quantile(0.95, of("prefect_flow_run_start_delay_seconds_bucket"), "work_pool_name")},
            width=6,
            unit=style.HOURS,
            step="1m",
            empty="No run finished",
        ),
        graph(
            "Time since the last poll",
            "Time since a worker last polled each queue. A steadily rising line is a queue that no worker polls. Queues that have never been polled are only shown in the table.",
            {QUEUE_NAME: poll},
            width=6,
            unit=style.HOURS,
            empty="No queue was polled, or Prefect could not be read",
        ),
    ]


def slots_in_use():
    share = {"unit": style.RATIO, "maximum": 1, "height": 7}
    return [
        row("Slots"),
        graph(
            "Slots in use, pools",
            "Share of each pool's concurrency limit that is in use. Pools without a limit are left out.",
            {"{{work_pool_name}}": slots("prefect_work_pool_slots", POOL_IS)},
            empty="No pool has a limit",
            **share,
        ),
        graph(
            "Slots in use, queues",
            "Share of each queue's concurrency limit that is in use. Queues without a limit are left out.",
            {QUEUE_NAME: slots("prefect_work_queue_slots", POOL_IS)},
            empty="No queue has a limit",
            **share,
        ),
        graph(
            "Slots in use, concurrency limits",
            "Share of each concurrency limit (global or by tag) that is in use. Not filtered by work pool.",
            {LIMIT: slots("prefect_concurrency_limit_slots")},
            empty="There is no concurrency limit",
            **share,
        ),
    ]


def contents():
    return [
        *strip(),
        row("Does it keep up?"),
        *tiles(),
        row("Who serves what?"),
        queues(),
        workers(),
        *work(),
        *slots_in_use(),
    ]


def board():
    variables = [
        *scope(),
        choice("pool", "Work pool", values("work_pool_name", "prefect_info_work_pools")),
        prefect_ui(),
    ]
    return dashboard(
        "prefect-work-pools",
        "Prefect work pools and queues",
        "Who does the work, and does it keep up? Workers, queues, late runs, slots and limits.",
        start="6h",
        variables=variables,
        contents=contents(),
    )
