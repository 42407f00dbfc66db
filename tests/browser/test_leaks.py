"""No view leaves anything behind when its cell is removed; none loses anything when its kernel goes."""

import pytest

from tests.attentions import Looker
from tests.browser.bridge import PATIENCE, Bridge
from tests.traces import make_image, make_sound, make_trace
from widgets import AttentionView, DiffView, DraftView, MediaInput, TokenView

# What a page may leave behind, counted: addresses of objects, timers, observers, listeners outside the view
COUNT = """
window.left = { urls: 0, timers: 0, observers: 0, listeners: 0, ever: 0 };
for (const [name, by] of [["createObjectURL", 1], ["revokeObjectURL", -1]]) {
    const real = URL[name].bind(URL);
    URL[name] = (what) => { left.urls += by; left.ever += by > 0; return real(what); };
}
const timers = new Set();
const { setInterval: every, clearInterval: never } = window;
window.setInterval = (...what) => { const id = every(...what); timers.add(id); left.timers = timers.size; return id; };
window.clearInterval = (id) => { timers.delete(id); left.timers = timers.size; return never(id); };
const { observe, disconnect } = MutationObserver.prototype;
const seen = new Set();
MutationObserver.prototype.observe = function (...what) {
    left.observers = seen.add(this).size;
    return observe.apply(this, what);
};
MutationObserver.prototype.disconnect = function () {
    seen.delete(this);
    left.observers = seen.size;
    return disconnect.apply(this);
};
const { addEventListener } = EventTarget.prototype;
EventTarget.prototype.addEventListener = function (kind, f, options) {
    const outside = this === window || this === document || this === document.body || this instanceof MediaQueryList;
    if (outside && kind !== "error") {
        left.listeners += 1;
        options?.signal?.addEventListener("abort", () => { left.listeners -= 1; }, { once: true });
    }
    return addEventListener.call(this, kind, f, options);
};
"""


def drawn(name):
    """A view with something to show, and what a user does with it."""
    trace = make_trace(rounds=6)
    if name == "TokenView":
        return TokenView(trace), lambda tab, _: tab.locator(".wb-t[role=option]").nth(2).click()
    if name == "DraftView":
        return DraftView(trace), lambda tab, _: tab.get_by_role("button", name="▶ play").click()  # and goes on playing
    if name == "DiffView":
        other = make_trace(rounds=6, seed=3)
        return DiffView(trace, other), lambda tab, _: tab.locator(".wb-t[role=option]").nth(2).hover()
    if name == "MediaInput":
        media = MediaInput()
        media.add(make_image(36, 60), make_sound(3.0))

        def play(tab, bridge):
            tab.get_by_role("button", name="Play").click()
            bridge.until(lambda: tab.evaluate("left.ever") == 1)

        return media, play

    def listen(tab, bridge):
        tab.get_by_role("button", name="Play").click()
        bridge.until(lambda: tab.evaluate("left.ever") == 1)
        tab.locator(".wb-t[role=option]").nth(1).click()

    return AttentionView(trace, Looker(trace)), listen


@pytest.mark.parametrize("name", ["TokenView", "DraftView", "DiffView", "MediaInput", "AttentionView"])
def test_nothing_is_left_behind(chromium, name):
    context = chromium.new_context()
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    tab.add_init_script(COUNT)
    widget, use = drawn(name)
    bridge = Bridge(widget, tab)
    tab.locator(".wb-body > *").first.wait_for()
    use(tab, bridge)
    bridge.pump()
    assert tab.evaluate("model.listeners()") > 0
    assert tab.evaluate("left.observers") == 1
    # drawn again, as after a change of what it shows: the first drawing must not stay in memory either
    tab.evaluate("model.trigger('change:data')")
    once = tab.evaluate("model.listeners()")
    tab.evaluate("model.trigger('change:data')")
    assert tab.evaluate("model.listeners()") == once
    tab.evaluate("cleanup()")
    assert tab.evaluate("model.listeners()") == 0
    left = tab.evaluate("left")
    left.pop("ever")
    assert left == {"urls": 0, "timers": 0, "observers": 0, "listeners": 0}
    assert tab.locator(".wb").count() == 0
    context.close()


@pytest.mark.parametrize("name", ["TokenView", "DraftView", "DiffView", "MediaInput", "AttentionView"])
def test_a_kernel_that_goes_is_told_and_what_was_there_stays(chromium, name):
    context = chromium.new_context()
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    widget, _ = drawn(name)
    bridge = Bridge(widget, tab)
    tab.locator(".wb-body > *").first.wait_for()
    bridge.until(lambda: tab.evaluate("document.querySelector('.wb-body').getAttribute('aria-busy')") is None)
    before = tab.locator(".wb-body").inner_text()
    assert not tab.locator(".wb-gone").is_visible()
    # what JupyterLab and Notebook do: they mark the widget, and tell its model
    mark = "(on) => { it.classList.toggle('jupyter-widgets-disconnected', on); model.trigger('comm_live_update'); }"
    tab.evaluate(mark, True)
    assert "run the cells again" in tab.locator(".wb-gone").inner_text()
    assert tab.locator(".wb-body").inner_text() == before
    if name == "AttentionView":  # what was seen can still be seen; what was not says why it cannot
        tab.locator(".wb-t[role=option]").nth(3).click()
        tab.wait_for_timeout(100)
        assert tab.locator(".wb-error:visible, .wb-gone:visible").count() == 1  # said once
    if name == "MediaInput":
        tab.get_by_role("button", name="Remove").first.click()
        tab.wait_for_timeout(100)
        assert tab.get_by_role("listitem").count() == 2
    tab.evaluate(mark, False)  # and back, when the page finds its kernel again
    assert not tab.locator(".wb-gone").is_visible()
    context.close()
