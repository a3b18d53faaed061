"""Photographs the report for the README: python docs/pictures/make.py out/demo/report.html

Make the report first, by `camlens demo`; the pictures are taken in Chromium by Playwright.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    """Take error.png, the upper part of the card of one error, and report.png, the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--image", type=int, default=4192, help="the error that is explained")
    options = parser.parse_args()
    address = f"{options.report.resolve().as_uri()}#image={options.image}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, part, width, height in (("error", "#card", 1560, 1050), ("report", "body", 1920, 1150)):
            tab = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=1.25)
            tab.goto(address)
            tab.wait_for_selector("#card canvas")
            tab.wait_for_timeout(500)  # the heat maps are drawn when their picture is there
            if part == "body":
                tab.screenshot(path=HERE / f"{name}.png")
            else:
                card, rest = (tab.locator(place).bounding_box() for place in (part, f"{part} .decide"))
                tab.screenshot(path=HERE / f"{name}.png", full_page=True, clip=card | {"height": rest["y"] - card["y"]})
        browser.close()


if __name__ == "__main__":
    main()
