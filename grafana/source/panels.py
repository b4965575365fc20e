"""Panels: the SDK's builders with this project's defaults."""

from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, statetimeline, timeseries
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

from . import style

SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
# Bars are as wide as what they count, and no narrower than this.
STEP = "1m"
# Counts of what happened, and of what is.
BARS = {"bars": True, "stacked": True, "decimals": 0}
STACK = {"stacked": True, "decimals": 0}


def row(title):
    return build.Row(title).id(0)


def query(expression, legend="__auto", instant=False, table=False):
    target = prometheus.Dataquery().expr(expression).legend_format(legend).datasource(SOURCE)
    target.editor_mode(QueryEditorMode.CODE)
    target = target.instant() if instant or table else target.range()
    return target.format(PromQueryFormat.TABLE) if table else target


def common_to_all(panel, title, description, width, height, targets):
    panel.title(title).description(description).datasource(SOURCE).span(width).height(height)
    for index, target in enumerate(targets):
        panel.with_target(target.ref_id(chr(ord("A") + index)))
    return panel


def stat(
    title,
    description,
    expressions,
    *,
    width=4,
    height=4,
    unit=style.COUNT,
    decimals=0,
    steps=style.INFORMATION,
    mappings=(),
    links=(),
    history=None,
    labels=(),
):
    """A tile: one expression, or several by name. Instant: what it shows is now. `history` is
    drawn behind it: the moment that the tile shows is appended to it, so that a value that is
    over is not taken for the current one. `labels` are shown instead of values."""
    if isinstance(expressions, str):
        expressions = {"__auto": expressions}
    several = len(expressions) > 1
    targets = [query(text, name, instant=True, table=bool(labels)) for name, text in expressions.items()]
    panel = stats.Panel()
    if history:
        targets.insert(0, query(history))
        panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    common_to_all(panel, title, description, width, height, targets)
    panel.unit(unit).decimals(decimals).no_value("?")
    if unit == style.RATIO:
        panel.min(0).max(1)
    # Texts have no thresholds.
    color = style.color("fixed", style.NEUTRAL) if labels else style.color("thresholds")
    panel.thresholds(style.thresholds(steps)).color_scheme(color)
    panel.mappings([*mappings, style.nothing()]).data_links(list(links))
    fields = f"/^({'|'.join(labels)})$/" if labels else ""
    panel.reduce_options(options.ReduceDataOptions().calcs(["last"]).fields(fields).values(False))
    panel.color_mode(common.BigValueColorMode.BACKGROUND_SOLID)
    panel.graph_mode(common.BigValueGraphMode.AREA if history else common.BigValueGraphMode.NONE)
    panel.justify_mode(common.BigValueJustifyMode.AUTO).wide_layout(True).show_percent_change(False)
    panel.percent_change_color_mode(common.PercentChangeColorMode.STANDARD)
    panel.text_mode(common.BigValueTextMode.VALUE_AND_NAME if several else common.BigValueTextMode.AUTO)
    return panel.orientation(
        common.VizOrientation.VERTICAL
        if labels
        else common.VizOrientation.HORIZONTAL
        if several
        else common.VizOrientation.AUTO
    )


def legend_below(shown):
    place = options.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST)
    return place.placement(common.LegendPlacement.BOTTOM).show_legend(shown).calcs([])


def tooltip(mode, order):
    return options.VizTooltipOptions().mode(mode).sort(order)


def graph(
    title,
    description,
    targets,
    *,
    width=8,
    height=8,
    unit=style.COUNT,
    decimals=None,
    stacked=False,
    bars=False,
    maximum=None,
    step=None,
    states=False,
    outcomes=False,
    empty="No data",
):
    """A graph of {legend: expression}."""
    panel = timeseries.Panel()
    targets = [query(text, name) for name, text in targets.items()]
    common_to_all(panel, title, description, width, height, targets)
    panel.unit(unit).min(0).no_value(empty).color_scheme(style.color("palette-classic-by-name"))
    if decimals is not None:
        panel.decimals(decimals)
    if maximum is not None:
        panel.max(maximum)
    panel.draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE).line_width(1)
    panel.fill_opacity(80 if bars else 25 if stacked else 8).span_nulls(False)
    panel.line_interpolation(common.LineInterpolation.LINEAR).point_size(4)
    # A value with a gap on both sides is drawn as a point.
    panel.show_points(common.VisibilityMode.AUTO)
    panel.axis_placement(common.AxisPlacement.AUTO)
    mode = common.StackingMode.NORMAL if stacked else common.StackingMode.NONE
    panel.stacking(options.StackingConfig().mode(mode).group("A"))
    if bars:
        # The bar at a moment has what happened in the step before it.
        panel.bar_alignment(common.BarAlignment.BEFORE).bar_width_factor(0.9)
    if bars or step:
        panel.interval(step or STEP)
    if states:
        style.color_states(panel)
    if outcomes:
        style.color_outcomes(panel)
    panel.legend(legend_below(True))
    return panel.tooltip(tooltip(common.TooltipDisplayMode.MULTI, common.SortOrder.DESCENDING))


def timeline(title, description, expression, legend, text, color, *, width=24, height=6, empty="No data"):
    """A line for each series, drawn while it is 1."""
    panel = statetimeline.Panel()
    common_to_all(panel, title, description, width, height, [query(expression, legend)])
    panel.unit(style.COUNT).decimals(0).no_value(empty).mappings([style.values({1: (text, color)})])
    panel.thresholds(style.thresholds([(1, color)])).color_scheme(style.color("thresholds"))
    panel.show_value(common.VisibilityMode.NEVER).row_height(0.85).merge_values(True)
    panel.align_value(common.TimelineValueAlignment.LEFT).fill_opacity(80).line_width(0)
    panel.legend(legend_below(False))
    return panel.tooltip(tooltip(common.TooltipDisplayMode.SINGLE, common.SortOrder.NONE)).interval(STEP)


class Column:
    """A column of a table: the label or the value of a query that it shows, and how."""

    def __init__(
        self,
        title,
        *,
        label=None,
        expression=None,
        width=None,
        least=None,
        unit=None,
        decimals=None,
        steps=None,
        cell=None,
        mappings=(),
        links=(),
        absent="?",
        hidden=False,
        **more,
    ):
        self.title, self.label, self.expression, self.hidden = title, label, expression, hidden
        # A label is a text, even one of digits: otherwise Grafana shows, and links to, 2,026.
        unit = unit or ("string" if label else None)
        properties = {"unit": unit, "decimals": decimals, "links": list(links), **more}
        if width:
            properties["custom.width"] = width
        if least:
            properties["custom.minWidth"] = least
        if cell:
            properties["custom.cellOptions"] = cell
        if steps:
            properties["thresholds"] = style.thresholds(steps, base=style.PLAIN).build()
            properties["color"] = {"mode": "thresholds"}
        if hidden:
            properties["custom.hideFrom"] = {"viz": True, "legend": False, "tooltip": False}
        elif expression or mappings:
            properties["mappings"] = [*mappings, style.nothing(absent)]
        self.properties = [style.prop(key, value) for key, value in properties.items() if value not in (None, [])]


TEXT = {"type": "color-text"}
CELL = {"type": "color-background", "mode": "basic"}
GAUGE = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}


def table(title, description, columns, *, sort=(), width=24, height=9, empty="No data", dropped=()):
    """A table: its queries have the same labels, by which their rows are merged. A row that one
    query lacks is there, without that value."""
    panel = tables.Panel()
    queries = [column for column in columns if column.expression]
    targets = [query(column.expression, table=True) for column in queries]
    common_to_all(panel, title, description, width, height, targets)
    single = len(queries) == 1
    names = {}
    for index, column in enumerate(queries):
        names["Value" if single else f"Value #{chr(ord('A') + index)}"] = column
    names |= {column.label: column for column in columns if column.label}
    if not single:
        panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    order = {
        column.label or next(name for name, one in names.items() if one is column): place
        for place, column in enumerate(columns)
    }
    organize = {
        "excludeByName": {name: True for name in ["Time", "__name__", *dropped]},
        "includeByName": {},
        "indexByName": order,
        "renameByName": {name: column.title for name, column in names.items() if name != column.title},
    }
    panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=organize))
    panel.unit(style.COUNT).no_value(empty).align(common.FieldTextAlignment.AUTO)
    panel.thresholds(style.thresholds([], base=style.PLAIN)).color_scheme(style.color("thresholds"))
    panel.cell_options(common.TableAutoCellOptions()).inspect(False).filterable(False)
    for column in columns:
        panel.override_by_name(column.title, column.properties)
    panel.show_header(True).cell_height(common.TableCellHeight.SM)
    by = [options.TableSortByFieldState().display_name(name).desc(desc) for name, desc in sort]
    return panel.sort_by(by)


# Whose a row is. The column of workspaces is there if an agent reports more than one; the hidden
# ones are for links.
WORKSPACE = Column("Workspace", label="workspace", width=90)
IDENTITY = [
    WORKSPACE,
    Column("job", label="job", hidden=True),
    Column("prefect_workspace", label="prefect_workspace", hidden=True),
]
INSTANCE = Column("Instance", label="instance", hidden=True)
