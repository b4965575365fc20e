"""Colours, units and value mappings. Each is defined here once."""

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard as model

# Prefect's own colours of state types: those of its interface, in its dark theme, which can be
# read on Grafana's light background too.
STATES = {
    "COMPLETED": "#5cc18a",
    "FAILED": "#c75757",
    "CRASHED": "#cd8551",
    "CANCELLED": "#8f8f8f",
    "CANCELLING": "#768ba7",
    "RUNNING": "#517acd",
    "PENDING": "#8f849a",
    "PAUSED": "#8f849a",
    "SCHEDULED": "#cdb051",
}

UNKNOWN = "#808080"  # what cannot be known, and what never happened
PLAIN = "text"
GOOD = "green"
WARNING = "orange"
BAD = "red"
NEUTRAL = "blue"

COUNT = "locale"  # all digits: 1,537
SECONDS = "s"
# On an axis, "s" would write 8.33 min where these write 08m:20s and 00:08:20.
CLOCK = "clocks"  # of runs, which may take milliseconds
HOURS = "dthms"  # of what is known to a second at best
RATIO = "percentunit"
BYTES = "bytes"
PER_SECOND = "reqps"
MOMENT = "dateTimeAsIso"

# Thresholds: a list of (from, colour). Below the first one, the colour is that of the unknown.
ANY_IS_BAD = [(0, GOOD), (1, WARNING), (10, BAD)]
ANY_IS_A_WARNING = [(0, GOOD), (1, WARNING)]
# None is no proof of health: Prefect may not be read.
FAILURES = [(0, NEUTRAL), (1, WARNING)]
NONE_IS_BAD = [(0, BAD), (1, GOOD)]
SUCCESS = [(0, BAD), (0.9, "yellow"), (0.98, GOOD)]
SATURATION = [(0, GOOD), (0.8, WARNING), (1, BAD)]
INFORMATION = [(0, NEUTRAL)]


def thresholds(steps, base=UNKNOWN):
    first = [model.Threshold(color=base, value=None)]
    rest = [model.Threshold(color=color, value=value) for value, color in steps]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(first + rest)


def color(mode, fixed=None):
    config = build.FieldColor().mode(mode)
    return config.fixed_color(fixed) if fixed else config


def result(text, color=None, index=None):
    return model.ValueMappingResult(text=text, color=color, index=index)


def values(mapping):
    """Texts for values: {value: (text, colour)}."""
    options = {str(value): result(text, color, index) for index, (value, (text, color)) in enumerate(mapping.items())}
    return model.ValueMap(options=options)


def above(limit, text, color):
    options = model.DashboardRangeMapOptions(from_val=limit, to=None, result=result(text, color))
    return model.RangeMap(options=options)


# Seconds: longer ago than anything that happened.
LONG_AGO = 1e9


def long_ago(text, color):
    return above(LONG_AGO / 2, text, color)


def nothing(text="?"):
    """The text, in grey, of null and NaN."""
    options = model.DashboardSpecialValueMapOptions(
        match=model.SpecialValueMatch.NULL_AND_NAN, result=result(text, UNKNOWN)
    )
    return model.SpecialValueMap(options=options)


NEVER = values({-1: ("never", UNKNOWN)})
STATE_NAMES = values({state.capitalize(): (state.capitalize(), color) for state, color in STATES.items()})


def prop(name, value):
    return model.DynamicConfigValue(id_val=name, value=value)


def fixed(value):
    return prop("color", {"mode": "fixed", "fixedColor": value})


# Of the agent's cycles, pushes and points.
OUTCOMES = {
    "success": GOOD,
    "accepted": GOOD,
    "partial": WARNING,
    "skipped": UNKNOWN,
    "failure": BAD,
    "failed": BAD,
    "rejected": WARNING,
    "dropped": "purple",
}


def color_outcomes(panel):
    """Every series whose name ends with an outcome has the colour of that."""
    for outcome, value in OUTCOMES.items():
        panel.override_by_regexp(f"/\\b{outcome}$/", [fixed(value)])
    return panel


def color_states(panel):
    """Every series that is named after a state type has the colour of that type."""
    for state, value in STATES.items():
        panel.override_by_regexp(f"/^{state}\\b/", [fixed(value)])
    return panel
