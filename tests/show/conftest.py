"""Pages in a real browser."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import camlens
from tiny import classifier, images

ROOT = Path(__file__).parents[2]


def needed(found, what):
    if not found:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {what}, which is not installed")
    return found


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")
    chromium = needed(shutil.which("chromium") or shutil.which("google-chrome"), "Chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser):
    """Opens the page in a file, or at a local address; an error in it, or a request elsewhere, fails the test."""
    problems, contexts = [], []

    def open_(path, address="", **settings):
        context = browser.new_context(accept_downloads=True, **{"viewport": {"width": 1400, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"a dialog: {dialog.message}"))
        server = str(path) if str(path).startswith("http://127.0.0.1:") else "file:"
        page.on("request", lambda r: None if r.url.startswith((server, "data:", "blob:")) else problems.append(r.url))
        page.goto((str(path) if server != "file:" else Path(path).as_uri()) + address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def axe():
    """Says what in a page people cannot read or use, by axe-core; the page is opened with bypass_csp=True."""
    script = needed(list(ROOT.glob("node_modules/axe-core/axe.min.js")), "axe-core (npm install --no-save axe-core)")[0]

    def violations(page):
        page.add_script_tag(path=script)
        found = page.evaluate("axe.run()")["violations"]
        return [(v["id"], [n["html"][:100] for n in v["nodes"]][:3]) for v in found]

    return violations


@pytest.fixture
def canvas():
    """The pixels of one of the card's canvases, (H, W, 3)."""

    def read(page, number):
        element = f"document.querySelectorAll('.views canvas')[{number}]"
        pixels = "c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
        page.wait_for_function(f"() => {{ const c = {element}; return c && {pixels}.some(v => v) }}")
        width, height, values = page.evaluate(
            f"() => {{ const c = {element}; return [c.width, c.height, [...{pixels}]] }}"
        )
        return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]

    return read


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """The page of a tiny network on 150 images, with 90 training images."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    return camlens.report(classifier(), images(150), path, images(90, "train"))
