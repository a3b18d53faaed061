"""Photographs the report for the README: python docs/pictures/make.py out/report/report.html

Make the report first, by `camlens report`; the pictures are taken in Chromium by Playwright.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    """Take error.png, the card of one error, and report.png, the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--image", type=int, help="the error that is explained; by default the first one")
    options = parser.parse_args()
    address = options.report.resolve().as_uri() + (f"#image={options.image}" if options.image is not None else "")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        tab = browser.new_page(viewport={"width": 1560, "height": 1120}, device_scale_factor=1.5)
        tab.goto(address)
        tab.wait_for_selector("#card canvas")
        tab.wait_for_timeout(500)  # the heat maps are drawn when their picture is there
        tab.locator("#card").screenshot(path=HERE / "error.png")
        tab.screenshot(path=HERE / "report.png")
        browser.close()


if __name__ == "__main__":
    main()
