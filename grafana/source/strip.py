"""The first tiles of every dashboard of Prefect: can what is below be trusted?"""

from . import style
from .links import board
from .panels import stat
from .select import agents_only, of_agent, select

PUBLISHED = f"max by (job, instance) ({select('prefect_agent_last_published_time_seconds')})"
SILENT = 1e9


def named(name, label, expression):
    """The values of a label, as those of another one, which is what the tile calls them."""
    return f'max by ({name}) (label_replace({expression}, "{name}", "$1", "{label}", "(.+)"))'


def strip():
    agent = [board("prefect-agent", "Show the agent")]
    wide = {"width": 6, "height": 3, "links": agent}
    up = {0: ("DOWN", style.BAD), 1: ("UP", style.GOOD)}
    # The agent computes the age when it publishes: since then, time has passed.
    age = f"{select('prefect_agent_section_age_seconds')} + on (job, instance) group_left () clamp_min(time() - {PUBLISHED}, 0)"
    silence = f"round(clamp_min(time() - min({PUBLISHED}), 0)) or on () vector({SILENT:.0e})"
    server = named("Prefect", "version", select("prefect_server_info"))
    # An agent that is scraped, instead of pushing, has no target_info.
    agents = named("agent", "service_version", agents_only(of_agent("target_info")))
    return [
        stat(
            "Prefect",
            "Whether the agent's last cycle could read the Prefect API. While it is DOWN, counters keep their last value, gauges are withheld after three intervals, and unknown values are shown as a grey question mark.",
            f"min({select('prefect_up')})",
            mappings=[style.values(up)],
            steps=[],
            **wide,
        ),
        stat(
            "Age of the data",
            "Time since the least recently read section was read from Prefect.",
            f"round(max({age}))",
            unit=style.SECONDS,
            steps=[(0, style.GOOD), (90, style.WARNING), (180, style.BAD)],
            **wide,
        ),
        stat(
            "Agent",
            "Time since the agent last published its metrics. Red after a minute: the agent is down, or its metrics do not arrive. SILENT: no agent has published any.",
            silence,
            unit=style.SECONDS,
            steps=[(0, style.GOOD), (60, style.BAD)],
            mappings=[style.above(SILENT / 2, "SILENT", style.BAD)],
            **wide,
        ),
        stat(
            "Version",
            "The version of the Prefect server, which Prefect Cloud does not report, and of the agent, if it pushes.",
            {"Prefect": server, "agent": agents},
            labels=("Prefect", "agent"),
            **wide,
        ),
    ]
