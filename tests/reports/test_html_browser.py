"""The page in a real browser: headless Chromium, offline. `make browser` installs it."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

from autotune.reports.html_format import html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
OPTIONS += " --disable-component-update --disable-sync"
PATIENCE_MS = 300_000  # the machine may be busy with a benchmark

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; `make browser` installs it"),
]


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=OPTIONS.split(), timeout=PATIENCE_MS
        )
        yield browser
        browser.close()


@pytest.fixture
def show(chromium, tmp_path):
    """Open the report on a source; at the end, nothing was said on the console and nothing fetched."""
    said, fetched, contexts = [], [], []

    def opened(source, *, width=1280, scheme="light"):
        path = Path(tmp_path, "report.html")
        path.write_text(html(source), encoding="utf-8")
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True, reduced_motion="reduce"
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        context.on("weberror", lambda error: said.append(str(error.error)))
        context.on("request", lambda request: fetched.append(request.url))
        page = context.new_page()
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert {urlsplit(url).scheme for url in fetched} == {"file"}


def draw_all(page):
    """Scroll through the page, as plots are drawn when they come near."""
    figures = page.locator("figure")
    for number in range(figures.count()):
        figures.nth(number).scroll_into_view_if_needed()
        figures.nth(number).locator(".trace").first.wait_for(state="attached")
    return figures.count()


def colours(page):
    """Of the page, of its text, and of the text of the first plot."""
    return page.evaluate(
        """() => {
            const body = getComputedStyle(document.body);
            return [body.backgroundColor, body.color, getComputedStyle(document.querySelector(".gtitle")).fill];
        }"""
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_plot_is_drawn_in_either_theme(show, suite_source, scheme):
    page = show(suite_source, scheme=scheme)
    assert draw_all(page) == 5
    here = colours(page)
    assert here[1] == here[2]
    assert (here[0] == "rgb(255, 255, 255)") == (scheme == "light")
    page.locator("#theme").click()
    page.wait_for_function("was => getComputedStyle(document.querySelector('.gtitle')).fill !== was", arg=here[2])
    assert colours(page)[0] != here[0]


def test_the_bar_of_a_plot_sends_nothing_away(show, suite_source):
    """Plotly's own bar has a button that uploads the figures."""
    page = show(suite_source)
    draw_all(page)
    buttons = page.locator("#section-1-time .modebar-btn")
    assert [each.get_attribute("data-title") for each in buttons.all()] == [
        "Download plot as a PNG",
        "Zoom",
        "Pan",
        "Reset axes",
    ]
    assert page.evaluate("document.querySelector('#section-1-time .plot')._context.plotlyServerURL") == ""


def test_searches_are_drawn(show, full_book):
    page = show(full_book.source())
    assert draw_all(page) > 5
    assert page.locator("figure#section-2-search, figure#section-3-search, figure#section-1-search").count() == 1


def test_choice_of_a_length_and_hiding_by_the_legend_survive_the_theme(show, suite_source):
    page = show(suite_source)
    draw_all(page)
    figure = page.locator("#section-1-pareto")
    shown = "() => document.querySelector('#section-1-pareto .plot').data.map(trace => [trace.x[0], trace.visible])"
    before = page.evaluate(shown)
    figure.locator("select").select_option(index=1)
    page.wait_for_function(f"was => ({shown})()[0][0] !== was", arg=before[0][0])
    figure.locator(".legendtoggle").nth(1).click()
    hidden = f"() => ({shown})().some(([_, visible]) => visible === 'legendonly')"
    page.wait_for_function(hidden)
    chosen = page.evaluate(shown)
    page.locator("#theme").click()
    assert page.evaluate(shown) == chosen


def test_tables_are_sorted_by_click_and_by_key(show, suite_source):
    page = show(suite_source)
    table = page.locator("#section-1-time-matrix")
    head = table.locator("thead th").nth(1)
    cells = table.locator("tbody tr td:nth-child(2)")

    def orders():
        found = [cell.get_attribute("data-order") for cell in cells.all()]
        missing = [order is None for order in found]
        assert missing == sorted(missing)  # what is missing is last, up or down
        return [float(order) for order in found if order]

    assert head.get_attribute("aria-sort") is None
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert orders() == sorted(orders())
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert orders() == sorted(orders(), reverse=True)
    table.locator("thead button").first.click()
    assert head.get_attribute("aria-sort") is None
    names = table.locator("tbody th").all_inner_texts()
    assert names[:2] == ["BlockSparse_LocalWindow_0.9", "BlockSparse_LocalWindow_0.95"]


def test_phone_scrolls_in_one_direction(show, suite_source):
    page = show(suite_source, width=375)
    for number in range(draw_all(page)):
        figure = page.locator("figure").nth(number)
        plot, legend = figure.locator(".plot").bounding_box(), figure.locator(".legend .bg").bounding_box()
        assert plot["x"] <= legend["x"] < legend["x"] + legend["width"] <= plot["x"] + plot["width"]
        assert legend["y"] + legend["height"] <= plot["y"] + plot["height"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator("#section-1-rows").evaluate("table => table.scrollWidth > table.parentNode.clientWidth")


def test_empty_database(show, book):
    assert "No measurements yet" in show(book.source()).locator("main").inner_text()
