"""Can the numbers be trusted? The agent, and what its metrics pass on the way to Prometheus."""

from . import style
from .frame import dashboard, prefect_ui, scope
from .panels import BARS, graph, row, stat
from .select import agents_only, increase, of_agent, quantile, select, steps
from .strip import strip


def range_and_hour(selector):
    return {
        name: f"round(sum({increase(selector, window)}))" for name, window in [("range", "$__range"), ("1 h", "1h")]
    }


def tiles():
    # Nothing was pushed, where the agent is only scraped: then no push failed either.
    pushes = of_agent("prefect_agent_exports_total", 'outcome="failure"')
    no_push = f"0 * count({select('prefect_agent_section_age_seconds')})"
    failed = {name: f"{text} or {no_push}" for name, text in range_and_hour(pushes).items()}
    series = f"sum({of_agent('prefect_agent_series')})"
    dropped = f"sum({of_agent('prefect_agent_series_dropped')}) or {no_push}"
    memory = f"max({agents_only(of_agent('process_memory_usage_bytes'))})"
    uptime = f"round(min({agents_only(of_agent('process_uptime_seconds'))}))"
    # Without it, the tile would show the end of its line for as long as that is in the time range.
    silent = f"NaN * absent({select('prefect_agent_section_age_seconds')})"
    return [
        stat(
            "Failed cycles",
            "Cycles in which no section, or not every section, could be read, in the time range and in the last hour.",
            range_and_hour(select("prefect_agent_cycles_total", 'outcome=~"failure|partial"')),
            steps=style.ANY_IS_A_WARNING,
        ),
        stat(
            "Failed pushes",
            "Pushes that were rejected or could not be delivered, in the time range and in the last hour. Counters lose nothing; gauges have a gap.",
            failed,
            steps=style.ANY_IS_A_WARNING,
        ),
        stat(
            "Series",
            "Series of the metrics that are read once per cycle. The line shows the time range.",
            f"{series} or {silent}",
            history=series,
        ),
        stat(
            "Series dropped",
            "Series beyond METRICS_CARDINALITY_LIMIT.",
            dropped,
            steps=[(0, style.GOOD), (1, style.BAD)],
        ),
        stat(
            "Memory",
            "Resident memory of the agent. The line shows the time range.",
            f"{memory} or {silent}",
            history=memory,
            unit=style.BYTES,
        ),
        stat("Running for", "Time since the agent started.", uptime, unit=style.SECONDS),
    ]


def cycles():
    duration = select("prefect_agent_cycle_duration_seconds_bucket")
    return [
        row("Cycles"),
        graph(
            "Cycles by outcome",
            "success: every section that was due was read; partial: some were; failure: none was. Each bar shows the step before it.",
            {"{{outcome}}": steps(select("prefect_agent_cycles_total"), "outcome")},
            **BARS,
            outcomes=True,
        ),
        graph(
            "Duration of cycles",
            "Time from the first request to the last response.",
            {"p50": quantile(0.5, duration), "p95": quantile(0.95, duration)},
            step="1m",
            unit=style.SECONDS,
        ),
        graph(
            "Age of each section",
            "Time since each section was last read. The gauges of a section are withheld after three of its intervals.",
            {"{{section}}": f"round(max by (section) ({select('prefect_agent_section_age_seconds')}))"},
            unit=style.HOURS,
        ),
    ]


def requests():
    count = "http_client_request_duration_seconds_count"
    wide = {"step": "1m"}

    def rate(matcher, by):
        return f"sum by ({by}) ({agents_only(f'rate({of_agent(count, *matcher)}[$__rate_interval])')})"

    return [
        row("Requests to Prefect"),
        graph(
            "Requests by call",
            "Requests per second.",
            {"{{http_request_method}} {{url_template}}": rate([], "http_request_method, url_template")},
            unit=style.PER_SECOND,
            stacked=True,
            **wide,
        ),
        graph(
            "Latency by call, p95",
            "95 % of responses took no longer than this.",
            {
                "{{url_template}}": quantile(
                    0.95, of_agent("http_client_request_duration_seconds_bucket"), "url_template", agents_only
                )
            },
            unit=style.SECONDS,
            **wide,
        ),
        graph(
            "Errors by call",
            "Failed requests per second, by call and type of error.",
            {"{{url_template}} {{error_type}}": rate(['error_type!=""'], "url_template, error_type")},
            unit=style.PER_SECOND,
            empty="No request failed",
            **wide,
        ),
    ]


def output():
    exports = of_agent("prefect_agent_exports_total")
    points = of_agent("prefect_agent_export_points_total")
    to_agent = of_agent("http_server_request_duration_seconds_count")
    return [
        row("Pushes, series and requests"),
        graph(
            "Pushes by outcome",
            "Pushes of each exporter. Each bar shows the step before it. skipped: replaced by a newer push while another one was being sent.",
            {"{{exporter}} {{outcome}}": steps(exports, "exporter, outcome")},
            **BARS,
            width=6,
            outcomes=True,
            empty="The agent does not push",
        ),
        graph(
            "Points by outcome",
            "Data points that were accepted, rejected by the receiver, failed (in a message that was not delivered) or dropped because of their size. Each bar shows the step before it.",
            {"{{exporter}} {{outcome}}": steps(points, "exporter, outcome")},
            **BARS,
            width=6,
            outcomes=True,
            empty="The agent does not push",
        ),
        graph(
            "Series by metric",
            "The ten metrics with the most series.",
            {"{{metric}}": f"topk(10, max by (metric) ({of_agent('prefect_agent_series')}))"},
            width=6,
            decimals=0,
        ),
        graph(
            "Requests to the agent",
            "Requests per second to /metrics, /readyz and the other routes. Requests that match no route are shown as other.",
            {
                "{{http_route}}": f'sum by (http_route) (label_replace(rate({to_agent}[$__rate_interval]) and on (job, instance) {select("prefect_agent_section_age_seconds")}, "http_route", "other", "http_route", ""))'
            },
            width=6,
            unit=style.PER_SECOND,
            step="1m",
            empty="No requests to the agent",
        ),
    ]


def process():
    cpu = f"rate({of_agent('process_cpu_time_seconds_total')}[$__rate_interval])"
    return [
        row("The process"),
        graph(
            "CPU",
            "CPU cores that the agent uses.",
            {"{{instance}}": agents_only(cpu)},
            width=12,
            height=7,
            decimals=3,
            step="1m",
            unit="none",
        ),
        graph(
            "Memory of the agent",
            "Resident memory of the agent.",
            {"{{instance}}": agents_only(of_agent("process_memory_usage_bytes"))},
            width=12,
            height=7,
            unit=style.BYTES,
        ),
    ]


def collector():
    def rate(name, by):
        return f"sum by ({by}) (rate(otelcol_{name}[$__rate_interval]))"

    missing = {"empty": "The collector's own metrics are not scraped", "step": "1m", "width": 6}
    lost = {"empty": "No points were refused or lost, or the collector is not scraped", "step": "1m", "width": 6}
    per_second = {"unit": "cps"}
    return [
        row("The collector"),
        graph(
            "Points received",
            "Data points per second that the receivers accepted, from all services that push.",
            {"{{receiver}} {{transport}}": rate("receiver_accepted_metric_points", "receiver, transport")},
            **missing,
            **per_second,
        ),
        graph(
            "Points sent",
            "Data points per second that the exporters sent.",
            {"{{exporter}}": rate("exporter_sent_metric_points", "exporter")},
            **missing,
            **per_second,
        ),
        graph(
            "Points refused and lost",
            "Data points per second: refused by a receiver (the sender may try again) or failed in it, refused by the memory limiter, not delivered by an exporter, or not accepted by its queue.",
            {
                "{{receiver}} refused": rate("receiver_refused_metric_points", "receiver"),
                "{{receiver}} failed": rate("receiver_failed_metric_points", "receiver"),
                "{{processor}} refused": rate("processor_memory_limiter_refused_metric_points", "processor"),
                "{{exporter}} failed": rate("exporter_send_failed_metric_points", "exporter"),
                "{{exporter}} queue full": rate("exporter_enqueue_failed_metric_points", "exporter"),
            },
            **lost,
            **per_second,
        ),
        graph(
            "Collector: memory and queue",
            "Resident memory, and the share of each exporter's queue that is in use. The prometheus exporter has no queue.",
            {
                "memory": "max(otelcol_process_memory_rss)",
                "queue of {{exporter}}": "max by (exporter) (otelcol_exporter_queue_size / otelcol_exporter_queue_capacity)",
            },
            unit=style.BYTES,
            **missing,
        ).override_by_regexp(
            "/^queue/",
            [style.prop("unit", style.RATIO), style.prop("max", 1), style.prop("custom.axisPlacement", "right")],
        ),
    ]


def prometheus():
    missing = {"empty": "Prometheus does not scrape itself", "width": 6}
    return [
        row("Prometheus"),
        graph(
            "Targets up by job",
            "Share of each job's targets that were up in the last scrape.",
            {"{{job}}": "avg by (job) (up)"},
            width=6,
            unit=style.RATIO,
            maximum=1,
            empty="There is no target",
        ),
        graph(
            "Duration of scrapes",
            "Duration of the last scrape for the ten slowest targets.",
            {"{{job}} {{instance}}": "topk(10, scrape_duration_seconds)"},
            width=6,
            unit=style.SECONDS,
            empty="There is no target",
        ),
        graph(
            "Samples and series",
            "Samples in the last scrape for the ten largest targets, and series in the head block of the database.",
            {
                "{{job}} {{instance}}": "topk(10, scrape_samples_scraped)",
                "head series": "sum(prometheus_tsdb_head_series)",
            },
            width=6,
            decimals=0,
            empty="There is no target",
        ),
        graph(
            "Failed rules",
            "Failed rule evaluations per second. Alerts in these rules do not fire.",
            {
                "{{rule_group}}": "sum by (rule_group) (rate(prometheus_rule_evaluation_failures_total[$__rate_interval]))"
            },
            unit="cps",
            step="1m",
            **missing,
        ),
    ]


def board():
    contents = [
        *strip(),
        row("Can the numbers be trusted?"),
        *tiles(),
        *cycles(),
        *requests(),
        *output(),
        *process(),
        *collector(),
        *prometheus(),
    ]
    return dashboard(
        "prefect-agent",
        "Prefect agent",
        "Can the numbers be trusted? The agent's cycles, requests, series and pushes, the collector, and Prometheus. The last two are not filtered by the variables.",
        start="3h",
        variables=[*scope(), prefect_ui()],
        contents=contents,
    )
