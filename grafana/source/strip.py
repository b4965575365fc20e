"""The first tiles of every dashboard of Prefect: can what is below be trusted?"""

from . import style
from .links import board
from .panels import stat
from .select import agents_only, of_agent, select

PUBLISHED = f"max by (job, instance) ({of_agent('prefect_agent_last_published_time_seconds')})"
DEAD = 60  # seconds


def last_published():
    """When each agent last published, in the last hour: of a dead one, only the past tells. An
    agent of the same job that appeared at about that time, or later, has replaced it (a new pod
    has another instance)."""
    agent = "max by (job, instance)"
    published = of_agent("prefect_agent_last_published_time_seconds")
    last = f"{agent} (last_over_time({published}[1h]))"
    newest = f"max by (job) (min_over_time({published}[1d]) and {published})"
    return f"{last} unless ({last} < time() - {DEAD} < on (job) group_left () ({newest} + 300))"


def named(name, label, expression):
    """The values of a label, as those of another one, which is what the tile calls them."""
    return f'max by ({name}) (label_replace({expression}, "{name}", "$1", "{label}", "(.+)"))'


def strip():
    agent = [board("prefect-agent", "Show the agent")]
    wide = {"width": 6, "height": 3, "links": agent}
    up = {0: ("DOWN", style.BAD), 1: ("UP", style.GOOD)}
    # The agent computes the age when it publishes: since then, time has passed.
    age = f"{select('prefect_agent_section_age_seconds')} + on (job, instance) group_left () clamp_min(time() - {PUBLISHED}, 0)"
    # If no agent has series now, as after a failed scrape, it is silent at once.
    silence = f"round(clamp_min(time() - min({last_published()}), 0)) and on () {PUBLISHED} or on () vector({style.LONG_AGO:.0e})"
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
            "Time since the agent last published its metrics; of several agents, the one that has been silent longest within the last hour. Red after a minute: the agent is down, or its metrics do not arrive. SILENT: there are no metrics of any agent. An agent that another instance has replaced is not considered.",
            silence,
            unit=style.SECONDS,
            steps=[(0, style.GOOD), (DEAD, style.BAD)],
            mappings=[style.long_ago("SILENT", style.BAD)],
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
