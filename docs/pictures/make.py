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
    parser.add_argument("--image", type=int, default=2405, help="the error that is explained")
    options = parser.parse_args()
    address = f"{options.report.resolve().as_uri()}#image={options.image}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, part, height in (("error", "#card", 1050), ("report", "body", 960)):
            tab = browser.new_page(viewport={"width": 1560, "height": height}, device_scale_factor=1.5)
            tab.goto(address)
            tab.wait_for_selector("#card canvas")
            tab.wait_for_timeout(500)  # the heat maps are drawn when their picture is there
            if part == "body":
                tab.screenshot(path=HERE / f"{name}.png")
            else:
                tab.locator(part).screenshot(path=HERE / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
