"""TokenView in a real browser: a click says another word; words that come one by one, and break off."""

import threading

import pytest

from tests.browser.bridge import PATIENCE, Bridge
from tests.test_views import Fake
from tests.traces import make_trace
from widgets import TokenView


@pytest.fixture
def saying(chromium):
    context = chromium.new_context()
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    complaints = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    view = TokenView(make_trace(tokens=5), Fake())
    yield view, tab, Bridge(view, tab)
    assert complaints == []
    tab.evaluate("cleanup()")
    assert tab.evaluate("model.listeners()") == 0
    context.close()


def test_words_that_broke_off_make_room_for_what_was_there(saying):
    view, tab, bridge = saying
    words = tab.locator(".wb-t[role=option]")
    for _ in range(2):
        view.stream(0, list(view.trace.tokens)[:2])
        bridge.until(lambda: words.count() == 2)
        assert tab.get_by_text("answering …").count() == 1
        view.refresh()
        bridge.until(lambda: words.count() == 5)
        assert tab.get_by_text("answering …").count() == 0


def test_a_double_click_on_an_alternative_is_one_branch(saying):
    view, tab, bridge = saying
    first, go, asked = view.trace, threading.Event(), []
    real = view.inspector.branch

    def slow(trace, **more):
        asked.append(trace)
        go.wait(20)
        return real(trace, **more)

    view.inspector.branch = slow
    tab.locator(".wb-t[role=option]").nth(2).click()
    tab.locator(".wb-panel li button").nth(1).dblclick()
    tab.locator(".wb-panel[aria-busy]").wait_for()
    tab.evaluate("model.send({ id: 'late', ask: 'branch', at: 2, token: 101, serial: 1 })")  # as from a second view
    go.set()
    bridge.until(lambda: tab.get_by_role("button", name="↩ back").count() == 1)
    bridge.until(lambda: not view._busy.locked())
    assert asked == [first]
    tab.get_by_role("button", name="↩ back").dblclick()
    bridge.until(lambda: tab.get_by_role("button", name="↩ back").count() == 0)
    assert view.trace is first
    assert not tab.get_by_role("alert").is_visible()


def test_what_cannot_be_shown_says_why_and_not_that_nothing_was_asked(saying):
    view, tab, bridge = saying
    view.describe = lambda trace: 1 / 0
    with pytest.raises(ZeroDivisionError):
        view.refresh()
    bridge.until(lambda: tab.get_by_role("alert").is_visible())
    assert tab.get_by_role("alert").inner_text() == "ZeroDivisionError: division by zero"
    assert tab.locator(".wb-body").inner_text() == ""
    view.stream(0, list(view.trace.tokens)[:2])  # the next answer's words come all the same
    bridge.until(lambda: tab.locator(".wb-t[role=option]").count() == 2)
