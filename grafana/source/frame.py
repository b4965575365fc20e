"""A dashboard around its panels: variables, links, defaults, and the file that it becomes."""

import copy
import json

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from .links import navigation
from .panels import SOURCE
from .select import select

GRAFANA = "13.2.3"
SCHEMA_VERSION = 42
# The address of Prefect's user interface, as the browser reaches it: the default of a variable.
PREFECT_UI = "http://localhost:4200"


def text(value):
    return model.VariableOption(text=value, value=value)


def choice(name, label, query, *, many=True, all_value=".*", description=""):
    """A variable with the values of a label: several, or all, or just one."""
    request = {"query": query, "refId": "StandardVariableQuery", "qryType": 1}
    variable = build.QueryVariable(name).label(label).description(description).query(request)
    variable.datasource(SOURCE).refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    variable.sort(model.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC).regex("").options([])
    variable.multi(many).include_all(many)
    if many:
        every = model.VariableOption(text=["All"], value=["$__all"])
        variable.all_value(all_value).current(every)
    return variable


def source():
    return build.DatasourceVariable("datasource").label("Data source").type("prometheus")


def values(label, metric, *matchers):
    return f"label_values({select(metric, *matchers)}, {label})"


def scope():
    """The variables that every dashboard of Prefect has."""
    known = "prefect_agent_section_age_seconds"
    by_job = f'{known}{{job=~"$job"}}'
    by_instance = f'{known}{{job=~"$job", instance=~"$instance"}}'
    return [
        source(),
        choice("job", "Job", f"label_values({known}, job)", description="The jobs of the agents."),
        choice("instance", "Instance", f"label_values({by_job}, instance)", description="The agents."),
        choice(
            "workspace",
            "Workspace",
            f"label_values({by_instance}, prefect_workspace)",
            description="Empty if no agent reports more than one workspace.",
        ),
    ]


def prefect_ui():
    variable = build.TextBoxVariable("prefect_ui").label("Prefect at")
    variable.description("The URL of Prefect's user interface, used in links.")
    return variable.default_value(PREFECT_UI).current(text(PREFECT_UI)).options([text(PREFECT_UI)])


def dashboard(uid, title, description, *, start, variables, contents, tags=("prefect",)):
    board = build.Dashboard(title).uid(uid).description(description).tags(list(tags)).editable()
    board.tooltip(model.DashboardCursorSync.CROSSHAIR).timezone("browser").refresh("30s")
    board.time(f"now-{start}", "now").version(1).week_start("").live_now(False)
    board.variables(variables).links(navigation(uid))
    for part in contents:
        if isinstance(part, build.Row):
            board.with_row(part)
        else:
            board.with_panel(part)
    return finished(json.loads(json.dumps(board.build(), cls=JSONEncoder)))


def finished(board):
    """What the SDK does not have, or writes as Grafana before this version did."""
    board["schemaVersion"] = SCHEMA_VERSION
    board["annotations"] = {"list": []}
    for variable in board["templating"]["list"]:
        # Those of an interval.
        for key in ["auto", "auto_min", "auto_count"]:
            variable.pop(key, None)
    for number, panel in enumerate(board["panels"], start=1):
        panel["id"] = number
        if panel["type"] == "row":
            panel.setdefault("panels", [])
            continue
        panel["pluginVersion"] = GRAFANA
        if panel["type"] == "table":
            # Since Grafana 12, the footer is a setting of the fields.
            panel["options"].pop("footer", None)
    return board


def exported(board):
    """The same for grafana.com: Grafana asks for the data source when it is imported."""
    board = copy.deepcopy(board)
    chosen = "${DS_PROMETHEUS}"
    for variable in board["templating"]["list"]:
        if variable["name"] == "datasource":
            variable["current"] = {"text": chosen, "value": chosen}
    kinds = sorted({panel["type"] for panel in board["panels"]} - {"row"})
    names = {"stat": "Stat", "table": "Table", "timeseries": "Time series", "state-timeline": "State timeline"}
    one = {
        "name": "DS_PROMETHEUS",
        "label": "Prometheus",
        "description": "",
        "type": "datasource",
        "pluginId": "prometheus",
        "pluginName": "Prometheus",
    }
    requires = [
        {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
        {"type": "grafana", "id": "grafana", "name": "Grafana", "version": GRAFANA},
    ]
    requires += [{"type": "panel", "id": kind, "name": names[kind], "version": ""} for kind in kinds]
    board.pop("id", None)
    return {"__inputs": [one], "__requires": requires, **board}


def written(board):
    return json.dumps(board, indent=2, ensure_ascii=False, sort_keys=False) + "\n"
