import re
from importlib.resources import files

import pytest

import camlens
from camlens.show.html import content_security_policy, style_sheet
from camlens.show.report import page
from tiny import classifier, images

STATIC = files(page.PACKAGE) / "static"
MODULES = {f.name[:-3]: f.read_text(encoding="utf-8") for f in STATIC.iterdir() if f.name.endswith(".js")}


MAIN = """\
import { twice,
  text } from "./b.js";
import { one } from "./a.js";
window.x = [twice(one), text];
"""
B = """\
import { one } from "./a.js";

export function twice(n) {
  return 2 * n * one;
}
export const text = "t";
"""
A = """\
const hidden = 3;
export const one = hidden - 2;
"""


def test_modules_are_joined_after_those_they_import_from(browser):
    script = page.bundle({"main": MAIN, "b": B, "a": A})
    assert script.startswith('"use strict";\nconst $a = ') and script.index("$b = ") < script.index("$main = ")
    tab = browser.new_page()
    tab.add_script_tag(content=script)
    assert tab.evaluate("[window.x, typeof hidden, typeof one]") == [[2, "t"], "undefined", "undefined"]
    tab.close()


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"main": 'import { b } from "./a.js";\n', "a": "const b = 1;\n"}, "imports b, which a.js does not export"),
        ({"main": 'import { b } from "./a.js";\n'}, "imports b, which a.js does not export"),
        ({"main": 'import b from "./a.js";\n', "a": ""}, "cannot join 'import b from"),
        ({"main": "export default 1;\n"}, "cannot join 'export default 1;'"),
        (
            {
                "main": 'import { a } from "./a.js";\nexport const b = 1;\n',
                "a": 'import { b } from "./main.js";\nexport const a = 1;\n',
            },
            "cycle",
        ),
    ],
)
def test_modules_that_cannot_be_joined(modules, message):
    with pytest.raises(ValueError, match=message):
        page.bundle(modules)


def test_modules_are_short_and_all_of_them_are_used():
    imported = {name for text in MODULES.values() for name in re.findall(r'from "\./(\w+)\.js"', text)}
    assert imported == MODULES.keys() - {"main"}
    assert max(text.count("\n") for text in MODULES.values()) < 150


def test_the_page_holds_one_script_that_nothing_ends_early():
    script = page.script()
    assert "</script" not in script and "<!--" not in script
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)


def test_the_modules_do_as_modules_what_they_do_in_the_page(browser, tmp_path):
    path = camlens.report(classifier(), images(60), tmp_path / "report.html", images(40, "train"))
    text, script = path.read_text(encoding="utf-8"), page.script()
    assert text.count(script) == 1
    as_modules = re.sub(r"<meta http-equiv[^>]*>", "", text).replace(
        f"<script>{script}", '<script type="module" src="main.js">'
    )

    def answer(route):
        name = route.request.url.rsplit("/", 1)[1].removesuffix(".js")
        if name in MODULES:
            route.fulfill(body=MODULES[name], content_type="text/javascript")
        else:
            route.fulfill(body=as_modules, content_type="text/html")

    tabs = [browser.new_page(), browser.new_page()]
    tabs[0].route("http://page.test/**", answer)
    tabs[0].goto("http://page.test/page")
    tabs[1].goto(path.as_uri())
    for tab in tabs:
        tab.wait_for_selector("#card canvas")
    bodies = [tab.locator("main").inner_html() for tab in tabs]
    assert bodies[0] == bodies[1] and len(bodies[0]) > 10_000
    for tab in tabs:
        tab.close()


def test_the_policy_names_style_and_script_alone():
    policy = content_security_policy(style_sheet(page.PACKAGE), page.script())
    assert len(re.findall("sha256-", policy)) == 2 and "unsafe" not in policy
    assert "connect-src 'none'" in policy and policy.startswith("default-src 'none'; ")
