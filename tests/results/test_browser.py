"""The page in headless Chromium: every figure draws, nothing is cut, no error, no request leaves the page.

Takes the browser of the system, else the one that `make browser` fetched.
"""

import os
import shutil

import pytest

from bdia.results.report import build_report
from helpers.places import ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PLACES = os.pathsep.join([os.environ["PATH"], str(ROOT / ".browser")])
BROWSER = next(filter(None, (shutil.which(name, path=PLACES) for name in BROWSERS)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)} is on the path; try make browser"
    ),
]
SIZES = {"phone": (390, 844), "laptop": (1280, 720), "wide": (2560, 1440)}

# What stands out of the page or of its figure, or labels on each other: an element, how far in pixels, its text.
CUT = """() => {
  const found = [];
  const width = document.documentElement.clientWidth;
  const wanted = document.documentElement.scrollWidth;
  if (wanted > width) found.push(['page', wanted - width, '']);
  for (const one of document.querySelectorAll('body *')) {
    if (one.closest('svg') || one.closest('details:not([open])') || one.closest('thead') && width < 641) continue;
    const box = one.getBoundingClientRect();
    const out = Math.max(box.right - width, -box.left);
    if (box.width && out > 1) found.push([one.tagName, out, one.textContent.slice(0, 40)]);
  }
  for (const plot of document.querySelectorAll('.plot')) {
    const frame = plot.getBoundingClientRect();
    for (const text of plot.querySelectorAll('svg text')) {
      const box = text.getBoundingClientRect();
      const sides = [frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom];
      const out = Math.max(...sides);
      if (box.width && out > 2) found.push(['text', out, text.textContent]);
    }
  }
  for (const axis of document.querySelectorAll('.plot .yaxislayer-above, .plot .xaxislayer-above')) {
    const boxes = [...axis.querySelectorAll('text')].map((text) => [text.getBoundingClientRect(), text.textContent]);
    boxes.forEach(([one, words], at) => boxes.slice(at + 1).forEach(([other, more]) => {
      const wide = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      const high = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
      if (wide > 2 && high > 4) found.push(['overlap', high, `${words} / ${more}`]);
    }));
  }
  return found;
}"""
DRAWN = """() => [...document.querySelectorAll('.plot')].map(
  (plot) => plot.querySelectorAll('.trace, .points path, .bars path, .scatterlayer path').length)"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build_report(ROOT / "results", tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install '.[dev]'")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """The page in a window of some size, with all that went wrong."""

    def __init__(self, browser, report, size):
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.errors, self.requests = [], []
        self.page.on("console", self._logged)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(report.as_uri())
        self.page.wait_for_function("document.querySelectorAll('.plot:not(.js-plotly-plot)').length === 0")

    def _logged(self, told):
        if told.type in ("error", "warning"):
            self.errors.append(told.text)


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def opened(request, chromium, report):
    found = Opened(chromium, report, request.param)
    yield found
    found.page.close()


def test_every_figure_draws_and_nothing_is_cut(opened):
    drawn = opened.page.evaluate(DRAWN)
    assert len(drawn) >= 8 and all(drawn), drawn
    assert opened.page.evaluate(CUT) == []


def test_no_error_is_logged_and_no_request_leaves_the_page(opened, report):
    assert opened.errors == []
    assert opened.requests == [report.as_uri()]


def test_the_first_screen_has_the_verdicts_and_where_it_is_wide_the_figure(opened):
    height = opened.page.viewport_size["height"]
    chips = opened.page.eval_on_selector_all(
        ".short .chip", "all => all.map((one) => one.getBoundingClientRect().bottom)"
    )
    plot = opened.page.eval_on_selector(".plot", "one => one.getBoundingClientRect().bottom")
    if opened.page.viewport_size["width"] < 1000:
        assert sum(bottom <= height for bottom in chips) >= 3
    else:
        assert max(chips) <= height and plot <= height


def test_folds_open_without_cutting_anything(opened):
    opened.page.eval_on_selector_all("details", "all => all.forEach((one) => { one.open = true })")
    assert opened.page.evaluate(CUT) == []


def test_on_paper_nothing_is_cut(chromium, report, tmp_path):
    opened = Opened(chromium, report, (680, 960))  # A4 between its margins
    opened.page.emulate_media(media="print")
    opened.page.wait_for_timeout(500)
    assert all(opened.page.evaluate(DRAWN))
    assert opened.page.evaluate(CUT) == []
    assert len(opened.page.pdf(format="A4")) > 100_000
    opened.page.close()
