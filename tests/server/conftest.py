"""A headless browser for the pages, where the machine has one."""

import os
import shutil
from contextlib import contextmanager

import pytest

from browser import SIZES, PageGateway
from gateway import Gateway


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[dev]'")
    path = os.environ.get("OVERTURE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with playwright.sync_playwright() as started:
        try:
            made = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        except playwright.Error:
            pytest.skip("no browser: install Debian's chromium, or run `playwright install chromium`")
        yield made
        made.close()


@pytest.fixture
def visit(browser):
    """Opens a page of a running gateway: no console message and no wide body is tolerated at its end."""

    @contextmanager
    def visit(gateway, path="/", size="wide", **options):
        context = browser.new_context(viewport=SIZES[size], reduced_motion="reduce", **options)
        page = context.new_page()
        page.set_default_timeout(5000)
        messages = []
        page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: messages.append(str(error)))
        with gateway.served() as url:
            try:
                page.goto(f"{url}{path}")
                yield page
                assert not messages
                width = page.evaluate("document.documentElement.scrollWidth")
                assert width <= SIZES[size]["width"], f"{page.url} is {width} px wide"
            finally:
                context.close()

    return visit


@pytest.fixture
def page_gateway(tmp_path):
    """Makes gateways for a browser, in the test's folder."""
    made = []

    def make(**options):
        made.append(PageGateway(tmp_path / "store", **options))
        return made[-1]

    yield make
    for gateway in made:
        gateway.bound.close()


@pytest.fixture
def gateway(tmp_path):
    made = Gateway(tmp_path / "store", serves_base=True)
    made.add("movie", "spam", "topics", "names", "stars", "pair", "summary", "talk")
    return made


@pytest.fixture
def client(gateway):
    with gateway.client() as client:
        yield client
