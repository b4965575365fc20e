"""Links: between the dashboards, and into Prefect's user interface."""

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard as model

SCOPE = "${job:queryparam}&${instance:queryparam}&${workspace:queryparam}"
ROW = "&".join(
    f"var-{name}=${{__data.fields.{field}:percentencode}}"
    for name, field in [("job", "job"), ("instance", "Instance"), ("workspace", "prefect_workspace")]
)
DASHBOARDS = {
    "prefect-overview": "Overview",
    "prefect-deployment": "Deployment",
    "prefect-work-pools": "Work pools",
    "prefect-agent": "Agent",
    "numbers": "Example service",
}


class Link(dict):
    """A link of a field, which the SDK has no builder for."""

    def build(self):
        return self


def link(title, url, new_tab=False):
    return Link(title=title, url=url, targetBlank=new_tab)


def board(uid, title, scope=SCOPE, **variables):
    """A link to a dashboard. A variable is set by a template of a field or another variable."""
    others = "".join(f"&var-{name}={value}" for name, value in variables.items())
    url = f"/d/{uid}?${{datasource:queryparam}}&{scope}&${{prefect_ui:queryparam}}{others}"
    return link(title, url + "&${__url_time_range}")


def field(name):
    return f'${{__data.fields["{name}"]:percentencode}}'


def in_prefect(title, path):
    return link(title, "${prefect_ui:raw}" + path, new_tab=True)


def run_in_prefect(column="Run"):
    return in_prefect("Open the run in Prefect", f"/runs/flow-run/{field(column)}")


def deployment_in_prefect(name):
    """No metric has a deployment's id: the list of deployments, filtered by name. The first
    parameter is read by Prefect's new interface, the second by its old one."""
    path = f"/deployments?flowOrDeploymentName={name}&deployments.flowOrDeploymentNameLike={name}"
    return in_prefect("Find the deployment in Prefect", path)


def pool_in_prefect(column="Pool"):
    return in_prefect("Open the work pool in Prefect", f"/work-pools/work-pool/{field(column)}")


def queue_in_prefect(pool="Pool", queue="Queue"):
    path = f"/work-pools/work-pool/{field(pool)}/queue/{field(queue)}"
    return in_prefect("Open the work queue in Prefect", path)


FAILED_IN_PREFECT = in_prefect("Show failed runs in Prefect", "/runs?state=Failed")
LATE_IN_PREFECT = in_prefect("Show late runs in Prefect", "/runs?state=Late")


def navigation(uid):
    """Links at the top. They hand over what the target has: the flow of one dashboard may be
    "All", which another one, of a single flow, cannot show."""
    links = []
    for target, title in DASHBOARDS.items():
        if target == uid:
            continue
        url = f"/d/{target}?${{datasource:queryparam}}"
        if "numbers" not in (uid, target):
            url += f"&{SCOPE}&${{prefect_ui:queryparam}}"
        one = build.DashboardLink(title).type(model.DashboardLinkType.LINK).url(url)
        links.append(one.icon("dashboard").keep_time(True).tags([]))
    return links
