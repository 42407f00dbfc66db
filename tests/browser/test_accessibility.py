"""axe-core finds nothing in any view, light or dark. `.ci/run` puts axe-core into artifacts/axe."""

import os
from pathlib import Path

import pytest

from tests.attentions import make_attention, make_lens
from tests.browser.bridge import Bridge
from tests.browser.conftest import ARTIFACTS
from tests.traces import make_image, make_sound, make_trace
from widgets import AttentionView, DiffView, DraftView, MediaInput, TokenView, to_html
from workbench.readings import keep

AXE = Path(os.environ.get("WORKBENCH_AXE") or ARTIFACTS / "axe" / "node_modules" / "axe-core" / "axe.min.js")
RUN = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations.map(
    (v) => [v.id, ...v.nodes.slice(0, 3).map((n) => `${n.html.slice(0, 200)}: ${n.failureSummary}`)])"""

pytestmark = pytest.mark.skipif(
    not AXE.exists(), reason="axe-core is not there: npm install --prefix artifacts/axe axe-core"
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages(chromium, tmp_path, scheme):
    trace = make_trace(rounds=6, thought=2)
    kept = keep(trace, make_attention(trace), make_lens(trace))
    path = to_html(
        [TokenView(kept), AttentionView(kept), DraftView(kept), DiffView(kept, make_trace(rounds=6, seed=2))],
        tmp_path / "a.html",
    )
    context = chromium.new_context(color_scheme=scheme, bypass_csp=True, reduced_motion="reduce")
    tab = context.new_page()
    tab.goto(path.as_uri())
    tab.locator(".wb-t[role=option]").nth(5).click()
    for summary in tab.locator("summary").all():
        summary.click()
    tab.locator(".wb-stage[data-hottest]").first.wait_for()
    tab.evaluate(AXE.read_text("utf-8"))
    assert tab.evaluate(RUN) == []
    context.close()


def test_inputs(chromium):
    context = chromium.new_context(bypass_csp=True)
    tab = context.new_page()
    media = MediaInput()
    media.add(make_image(36, 60), make_sound(0.5))
    Bridge(media, tab)
    tab.get_by_role("button", name="Choose files").wait_for()
    tab.evaluate(AXE.read_text("utf-8"))
    assert tab.evaluate(RUN) == []
    context.close()


def test_twice_the_size_still_fits(open_page, tmp_path):
    """200 % zoom of a 1,000 pixel window is one of 500."""
    trace = make_trace(rounds=6)
    views = [TokenView(trace), DraftView(trace), DiffView(trace, make_trace(rounds=6, seed=2))]
    tab = open_page(to_html(views, tmp_path / "a.html"), width=500, device_scale_factor=2)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 500
