"""A real Chromium for tests of what is drawn. Screenshots go to artifacts/."""

import os
import shutil
from pathlib import Path

import pytest

from tests.browser.bridge import PATIENCE

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]  # fmt: skip


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            # Playwright's pipes are closed by the garbage collector
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="module")  # a running driver would be in the way of other tests
def chromium():
    """A browser for all tests of a module, each of which opens a context of its own."""
    found = os.environ.get("WORKBENCH_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
    )
    if found is None:
        if os.environ.get("WORKBENCH_NEED_BROWSER"):
            pytest.fail(
                "WORKBENCH_NEED_BROWSER is set and there is no Chromium: install one, or name it in WORKBENCH_CHROMIUM"
            )
        pytest.skip("no Chromium on this machine: install one, or name it in WORKBENCH_CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Opens a page from the disk; fails when it logged an error, or reached for anything."""
    contexts = []

    def opened(path, *, width=1000, height=900, **more):
        context = chromium.new_context(viewport={"width": width, "height": height}, **more)
        tab = context.new_page()
        tab.set_default_timeout(PATIENCE)
        tab.complaints, tab.requests = [], []
        tab.on("console", lambda m: tab.complaints.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.on("request", lambda request: tab.requests.append(request.url))
        tab.goto(Path(path).as_uri())
        contexts.append((context, tab))
        return tab

    yield opened
    for context, tab in contexts:
        assert tab.complaints == []
        assert [url for url in tab.requests if not url.startswith(("file:", "data:", "blob:"))] == []
        context.close()


@pytest.fixture(scope="session")
def picture():
    """Keeps a screenshot in artifacts/, to be looked at."""
    ARTIFACTS.mkdir(exist_ok=True)

    def taken(tab, name, **more):
        path = ARTIFACTS / f"{name}.png"
        tab.screenshot(path=str(path), **{"full_page": True, **more})
        return path

    return taken
