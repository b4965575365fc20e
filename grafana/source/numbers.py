"""The instrumented service of examples/service."""

from . import style
from .frame import choice, dashboard, source
from .panels import BARS, graph, row, stat
from .select import steps

SCOPE = 'job=~"$job", instance=~"$instance"'
ROUTE = "http_route=~`${route:regex}`"


def of(metric, *matchers):
    return f"{metric}{{{', '.join([SCOPE, *matchers])}}}"


SEEN = f"count({of('numbers_requests_total')})"


def rate(selector, window="$__rate_interval", by=""):
    return f"sum{by}(rate({selector}[{window}]))"


def tiles():
    requests = rate(of("numbers_requests_total", ROUTE), "5m")
    failed = rate(of("numbers_requests_total", ROUTE, 'http_response_status_code=~"5.."'), "5m")
    buckets = of("http_server_request_duration_seconds_bucket", ROUTE)
    wide = {"width": 6}
    strip = {"width": 8, "height": 3}
    return [
        stat(
            "Service",
            "UP while Prometheus has metrics of the service. With the collector of this repository, that is until two minutes after its last push.",
            f"{SEEN} > bool 0",
            steps=[],
            mappings=[style.values({1: ("UP", style.GOOD)})],
            **strip,
        ),
        stat(
            "Age of the data",
            "Time since Prometheus last stored a sample of the service.",
            f"round(time() - max(timestamp({of('numbers_requests_total')})))",
            unit=style.SECONDS,
            steps=[(0, style.GOOD), (60, style.WARNING), (180, style.BAD)],
            **strip,
        ),
        stat(
            "Instances",
            "Processes of the service that report metrics.",
            f"count(count by (job, instance) ({of('numbers_requests_total')}))",
            **strip,
        ),
        row("Is it healthy?"),
        stat("Requests", "Requests per second, over five minutes.", requests, unit=style.PER_SECOND, decimals=2, **wide),
        stat(
            "Errors",
            "Share of requests with a status of 500 or more, over five minutes. A question mark means that there were no requests.",
            f"({failed} or 0 * {SEEN}) / ({requests} > 0)",
            unit=style.RATIO,
            decimals=1,
            steps=[(0, style.GOOD), (0.01, style.WARNING), (0.05, style.BAD)],
            **wide,
        ),
        stat(
            "p95 latency",
            "95 % of the responses of the last five minutes took no longer than this.",
            f"histogram_quantile(0.95, {rate(buckets, '5m', ' by (le) ')})",
            unit=style.SECONDS,
            decimals=1,
            **wide,
        ),
        stat(
            "In progress",
            "Requests that are currently in progress.",
            f"sum({of('http_server_active_requests', ROUTE)})",
            **wide,
        ),
    ]


def rates():
    requests = of("numbers_requests_total", ROUTE)
    per_second = {"unit": style.PER_SECOND, "step": "1m"}
    return [
        row("Rate and errors"),
        graph(
            "Requests by route",
            "Requests per second.",
            {"{{http_route}}": rate(requests, by=" by (http_route) ")},
            **per_second,
        ),
        graph(
            "Requests by status",
            "Requests per second.",
            {"{{http_response_status_code}}": rate(requests, by=" by (http_response_status_code) ")},
            **per_second,
        ),
        graph(
            "In progress by route",
            "Requests that are in progress.",
            {"{{http_route}}": f"sum by (http_route) ({of('http_server_active_requests', ROUTE)})"},
            decimals=0,
        ),
    ]


def latency():
    buckets = of("http_server_request_duration_seconds_bucket", ROUTE)
    time = {"unit": style.SECONDS, "step": "1m", "width": 12, "empty": "There were no requests"}
    quantile = "histogram_quantile({}, {})".format
    return [
        row("Latency"),
        graph(
            "Latency",
            "50 %, 90 % and 99 % of responses took no longer than this: histogram_quantile() over the buckets of all routes.",
            {f"p{q * 100:.0f}": quantile(q, rate(buckets, by=" by (le) ")) for q in [0.5, 0.9, 0.99]},
            **time,
        ),
        graph(
            "Latency by route, p95",
            "95 % of the responses of each route took no longer than this.",
            {"{{http_route}}": quantile(0.95, rate(buckets, by=" by (http_route, le) "))},
            **time,
        ),
    ]


def its_own():
    return [
        row("Custom metrics"),
        graph(
            "Authentications",
            "Authentications by outcome. Each bar shows the step before it.",
            {"{{outcome}}": steps(of("numbers_authentications_total"), "outcome")},
            width=12,
            height=7,
            **BARS,
        ),
        graph(
            "Even numbers",
            "Even numbers that were requested. Each bar shows the step before it.",
            {"even numbers": steps(of("numbers_even_numbers_total"))},
            width=12,
            height=7,
            bars=True,
            decimals=0,
        ),
    ]


def contents():
    return [*tiles(), *rates(), *latency(), *its_own()]


def board():
    seen = "numbers_requests_total"
    variables = [
        source(),
        # Other services have http_server_* metrics too.
        choice("job", "Job", f"label_values({seen}, job)", all_value=".*numbers"),
        choice("instance", "Instance", f'label_values({seen}{{job=~"$job"}}, instance)'),
        choice("route", "Route", f'label_values({seen}{{job=~"$job"}}, http_route)'),
    ]
    return dashboard(
        "numbers",
        "Example service",
        "The instrumented service of examples/service: rate, errors, latency, requests in progress.",
        start="1h",
        variables=variables,
        contents=contents(),
        tags=("prefect", "example"),
    )
