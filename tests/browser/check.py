"""Checks the status page in headless Chromium.

    check.py CHROMIUM AGENT_URL PREFECT_API_URL FOLDER

Writes "passed NAME" after each scenario, and pictures of the page into FOLDER. Any other line that
it writes asks its caller for something, and it continues when it has read a line
(tests/integration/browser.rs).
"""

import os
import sys

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

CHROMIUM, AGENT, PREFECT, FOLDER = sys.argv[1:]
UI = PREFECT.removesuffix("/api")
ODD = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 320, "height": 640}
# Only a failure waits for it: the machine may be busy.
PATIENCE = 120_000


def ask(wish):
    print(wish, flush=True)
    if not sys.stdin.readline():
        sys.exit("the caller has gone")


def headline(page, text):
    expect(page.locator("#overall")).to_have_text(text)


def row(page, table, text):
    return page.locator(f"#{table} tbody tr").filter(has_text=text)


def scrolls_sideways(page):
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def barriers(page):
    found = Axe().run(page).response["violations"]
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]


def picture(page, name):
    page.screenshot(path=os.path.join(FOLDER, f"{name}.png"), full_page=True)


def it_loads(page):
    headline(page, "Healthy")
    expect(page).to_have_title("Healthy – prefect-otel-agent")
    expect(page.locator("#since")).to_contain_text(f"Prefect 3.8.8 at {PREFECT}")
    expect(page.locator("#link-prefect")).to_have_attribute("href", UI)
    expect(page.locator("#link-metrics")).to_have_attribute("href", "metrics")
    expect(page.locator("#sections tbody tr")).to_have_count(13)
    expect(row(page, "sections", "active runs")).to_contain_text("fresh")
    expect(row(page, "requests", "POST /flow_runs/filter")).to_be_visible()
    expect(row(page, "exporters", "prometheus")).to_contain_text("/metrics")
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")


def names_are_text(page):
    ask("run fails")
    # The flow of the other one has the same name.
    deployment = row(page, "deployments", "FAILED")
    expect(deployment.locator("th a")).to_have_text(ODD)
    expect(deployment.locator("th small")).to_have_text(ODD)
    expect(row(page, "unfinished", ODD)).to_contain_text("RUNNING")
    assert page.locator("main script, main img").count() == 0
    assert "owned" not in page.title()


def troubled_deployments_link_to_prefect(page):
    names = page.locator("#deployments tbody th a")
    expect(names).to_have_text(["deployment-1", ODD])
    for link in names.all() + page.locator("#deployments td a").all():
        assert link.get_attribute("href").startswith(f"{UI}/"), link.get_attribute("href")
    late_runs = page.locator("#deployments tbody tr").first.locator("td").first
    expect(late_runs).to_have_text("1")


def it_updates_itself_and_keeps_the_focus(page):
    page.evaluate("window.marker = 'the same document'")
    link = page.locator("#deployments tbody th a").last
    link.focus()
    # By the element itself: one that was replaced would look the same.
    page.evaluate("window.focused = document.activeElement")
    tile = page.locator("#tiles > div").first.locator("dd")
    expect(tile).to_have_text("2")
    ask("deployment added")
    expect(tile).to_have_text("3")
    assert page.evaluate("window.marker") == "the same document"
    assert page.evaluate("document.activeElement === window.focused"), "the focus is lost"


def cycles_are_drawn_and_described(page):
    expect(page.locator("#chart svg")).to_have_attribute("role", "img")
    expect(page.locator("#chart svg")).to_have_attribute("aria-labelledby", "cycles-text")
    expect(page.locator("#cycles-text")).to_contain_text("The longest took")
    answer = page.request.get(f"{AGENT}/status").json()
    bars = len(answer["cycles"]["last_hour"])
    assert 0 < bars <= page.locator("#chart svg g > rect:first-child").count() + 1
    # At once: the page draws the chart again every few seconds.
    bar = "[...document.querySelectorAll('#chart svg g > rect:first-child')].at(-1)"
    height = page.evaluate(f"() => {bar}.getBoundingClientRect().height")
    assert height > 0


def in_order_of_tab(page):
    page.locator("#link-prefect").focus()
    reached = []
    for _ in range(40):
        where = page.evaluate("""() => {
            const node = document.activeElement;
            if (node === document.body) return null;
            const outline = getComputedStyle(node);
            return [node.id || node.textContent, node.getBoundingClientRect().top + scrollY,
                    outline.outlineStyle !== "none" && outline.outlineWidth !== "0px"];
        }""")
        if where is None:
            break
        reached.append(where)
        page.keyboard.press("Tab")
    return reached


def a_keyboard_reaches_everything_in_order(page):
    # On a busy machine, cycles may be late: the page then shows no deployments for a moment.
    for _ in range(10):
        expect(page.get_by_text(ODD).first).to_be_visible()
        reached = in_order_of_tab(page)
        if ODD in [name for name, _, _ in reached]:
            break
    names = [name for name, _, _ in reached]
    assert names[:3] == ["link-prefect", "link-metrics", "/status"], names
    assert names[-1] == "series-text", names
    assert ODD in names and "deployment-1" in names, names
    assert all(visible for _, _, visible in reached), reached
    tops = [top for _, top, _ in reached]
    assert all(one <= next_one + 40 for one, next_one in zip(tops, tops[1:])), reached
    page.locator("#series-text").focus()
    expect(page.locator("#series")).not_to_be_visible()
    page.keyboard.press("Enter")
    expect(row(page, "series", "prefect_info_deployment")).to_be_visible()
    page.keyboard.press("Enter")


def a_phone_shows_it_without_scrolling_sideways(page):
    page.set_viewport_size(PHONE)
    page.locator("#series-text").click()
    expect(row(page, "series", "prefect_info_deployment")).to_be_visible()
    assert not scrolls_sideways(page)
    picture(page, "phone")
    assert barriers(page) == []
    page.locator("#series-text").click()
    page.set_viewport_size(WIDE)


def light_and_dark_follow_the_system(page):
    colors = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        style = "getComputedStyle(document.body)"
        colors[scheme] = page.evaluate(f"[{style}.backgroundColor, {style}.color]")
        picture(page, scheme)
        assert barriers(page) == [], scheme
    assert colors["light"][0] != colors["dark"][0] and colors["light"][1] != colors["dark"][1]
    page.emulate_media(color_scheme="light")


def a_prefect_that_cannot_be_read_is_shown_with_what_to_do(page):
    ask("prefect down")
    headline(page, "Prefect cannot be read")
    problem = page.locator("#problems li").first
    expect(problem).to_contain_text("Critical: Prefect cannot be read")
    expect(problem).to_contain_text("status 401")
    expect(problem).to_contain_text("check PREFECT_API_KEY")
    expect(problem).to_contain_text("docs/runbooks/PrefectUnreachable.md")
    # After three intervals.
    expect(row(page, "sections", "active runs")).to_contain_text("stale")
    expect(page.locator("#deployments")).not_to_be_visible()
    expect(page.locator("#deployments-text")).to_contain_text("Withheld")
    expect(page.locator("#tiles dd").first).to_have_text("–")
    assert page.locator("#chart rect.failure").count() > 0
    for scheme, size in (("light", WIDE), ("dark", PHONE)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        assert not scrolls_sideways(page)
        assert barriers(page) == [], scheme
        picture(page, f"down-{scheme}")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(WIDE)
    ask("prefect up")
    headline(page, "Healthy")
    expect(page.locator("#problems li")).to_have_count(0)
    expect(page.locator("#deployments")).to_be_visible()


def an_agent_that_does_not_answer_is_said_to(page):
    ask("agent stops")
    headline(page, "The agent does not answer")
    expect(page.locator("#since")).to_contain_text("The page shows what it reported at")
    assert barriers(page) == []
    picture(page, "silent")
    ask("agent continues")
    headline(page, "Healthy")


def without_javascript_it_points_to_the_json(page):
    context = page.context.browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(AGENT)
    expect(plain.locator("noscript p")).to_be_visible()
    expect(plain.locator("noscript p")).to_contain_text("This page needs JavaScript")
    expect(plain.locator("noscript a")).to_have_attribute("href", "status")
    context.close()


SCENARIOS = [
    it_loads,
    names_are_text,
    troubled_deployments_link_to_prefect,
    it_updates_itself_and_keeps_the_focus,
    cycles_are_drawn_and_described,
    a_keyboard_reaches_everything_in_order,
    a_phone_shows_it_without_scrolling_sideways,
    light_and_dark_follow_the_system,
    a_prefect_that_cannot_be_read_is_shown_with_what_to_do,
    an_agent_that_does_not_answer_is_said_to,
    without_javascript_it_points_to_the_json,
]


def main():
    os.makedirs(FOLDER, exist_ok=True)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, and many containers have none.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE
        )
        page = browser.new_context(viewport=WIDE, color_scheme="light").new_page()
        page.set_default_timeout(PATIENCE)
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.goto(AGENT)
        for scenario in SCENARIOS:
            try:
                scenario(page)
                assert said == [], f"the console has {said}"
            except Exception:
                picture(page, "failed")
                print(f"{scenario.__name__} failed; see {FOLDER}/failed.png", file=sys.stderr)
                raise
            print(f"passed {scenario.__name__}", flush=True)
        browser.close()


main()
