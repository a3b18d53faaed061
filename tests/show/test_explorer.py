import asyncio
import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection

import numpy as np
import pytest
import torch
from PIL import Image

import camlens
from camlens.analyse.explanations import PROBABLE_CLASSES
from camlens.show import explorer
from camlens.show.explorer import answer as explorer_answer
from camlens.show.explorer import server as explorer_server
from camlens.show.explorer.server import is_own_name
from camlens.show.report.page import FACTS_TAG
from tiny import NAMES, classifier, images

pytestmark = pytest.mark.network


class Server:
    """An explorer of a tiny network, at a port of its own."""

    def __init__(self, model, folder):
        explain, text = explorer.prepare_explorer(model, images(60), images(40, "train"), folder, 32)
        ready = threading.Event()
        self.address = ""

        def on_ready(address):
            self.address = address
            ready.set()

        threading.Thread(target=explorer.serve, args=(explain, text, "127.0.0.1", 0, on_ready), daemon=True).start()
        assert ready.wait(30)
        self.port = int(self.address.rsplit(":", 1)[1])

    def ask(self, body=b"", method="POST", path="/explain", **headers):
        """Status, answer and headers."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content, headers = response.read(), dict(response.getheaders())
        connection.close()
        return response.status, json.loads(content) if "json" in headers["content-type"] else content, headers


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    return Server(classifier(), tmp_path_factory.mktemp("explorer"))


def file_of(image, kind="PNG", **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def photo(width=40, height=30):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def grid(packed):
    kind = "<i2" if packed["bytes"] == 2 else "i1"
    values = np.frombuffer(base64.b64decode(packed["data"]), kind).reshape(-1, *packed["grid"])
    return torch.tensor(values * packed["scale"][0], dtype=torch.float32)


def test_an_upload_is_explained_as_the_library_does(server):
    model = classifier()
    status, answer, _ = server.ask(file_of(photo()))
    assert status == 200 and answer["label"] is None and answer["size"] == [30, 40]
    result = camlens.explain(model, [photo()], "hirescam", "late", "all")
    order = answer["model"]["classes"][0]
    assert order == result.logits[0].argsort(descending=True).tolist()
    np.testing.assert_allclose(answer["model"]["logit"][0], result.logits[0, order].detach(), atol=2e-3)
    (last,) = answer["model"]["layers"]
    assert last["name"] == "late"
    torch.testing.assert_close(grid(last), result.maps[0, order], atol=2e-3, rtol=0)
    assert answer["evidence"]["lists"].keys() == {"nearest"} and len(answer["evidence"]["index"]) == 6


@pytest.mark.parametrize(("layer", "method"), [("early", "grad-cam"), ("late", "layercam"), ("early", "hirescam")])
def test_layer_and_method_can_be_chosen(server, layer, method):
    model, data = classifier(), images(60)
    status, answer, _ = server.ask(path=f"/explain?image=7&layer={layer}&method={method}")
    assert status == 200 and answer["label"] == int(data.labels[7]) and answer["file"] == data.files[7]
    found = camlens.explain(model, model.prepare(data.images(torch.tensor([7]))), method, layer, "all").maps[0]
    torch.testing.assert_close(grid(answer["chosen"]), found[answer["model"]["classes"][0]], atol=1e-3, rtol=1e-3)


def test_with_many_classes_the_one_asked_for_is_there(tmp_path):
    names = tuple(f"kind {n}" for n in range(30))
    model, data = classifier(names=names), images(40, names=names)
    explain, _ = explorer.prepare_explorer(model, data, None, tmp_path, 32)
    order = explain.answer(3, "", "", "")["model"]["classes"][0]
    assert explain.answer(3)["model"]["exact"], "as the report found it, which one image cannot show"
    absent = next(c for c in range(30) if c not in order)
    answer = explain.answer(3, "early", "grad-cam", f"kind {absent}")
    assert len(order) == PROBABLE_CLASSES and answer["model"]["classes"][0][-1] == absent
    found = camlens.explain(model, model.prepare(data.images(torch.tensor([3]))), "grad-cam", "early", absent).maps[0]
    torch.testing.assert_close(grid(answer["chosen"])[-1], found, atol=1e-3, rtol=1e-3)


def test_the_report_is_made_once(tmp_path, monkeypatch):
    explorer.prepare_explorer(classifier(), images(60), images(40, "train"), tmp_path, 32)
    monkeypatch.setattr(explorer_answer, "analyse", lambda *_, **__: pytest.fail("made again"))
    explorer.prepare_explorer(classifier(), images(60), images(40, "train"), tmp_path, 32)
    monkeypatch.setattr(explorer_answer, "analyse", lambda *_, **__: (_ for _ in ()).throw(KeyError("other images")))
    with pytest.raises(KeyError, match="other images"):
        explorer.prepare_explorer(classifier(), images(61), images(40, "train"), tmp_path, 32)


def animation():
    return file_of(
        photo(), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    )


def test_the_first_frame_of_an_animation(server):
    status, answer, _ = server.ask(animation())
    assert status == 200 and answer["frames"] == 3


def wide_png():
    """A picture of 60 megapixels in a few bytes."""
    return file_of(Image.new("1", (10_000, 6_000)))


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "the file is empty; expected a picture"),
        (b"just some text", 400, "not a picture of a known kind: "),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "not a picture of a known kind: "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400, "not a picture of a known kind: "),
        (file_of(photo(), "JPEG")[:700], 400, "not a whole picture"),
        (file_of(photo())[:-40], 400, "not a whole picture"),
        (wide_png(), 400, "60.0 megapixels (10000×6000); expected 50 at most"),
        (bytes(10_000_001), 413, "10.0 MB; expected 10 at most"),
        (bytes(40_000_000), 413, "40.0 MB; expected 10 at most"),
    ],
)
def test_what_is_no_picture_gets_a_message(server, body, status, said):
    found, answer, _ = server.ask(body)
    assert found == status and said in answer["error"] and "Traceback" not in answer["error"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("image=60", "there is no image 60; noise has 0 to 59"),
        ("image=-1", "expected the number of a test image"),
        ("image=" + 5000 * "9", "expected the number of a test image"),
        ("image=1&layer=nowhere", "unknown layer 'nowhere'; tiny has: early, late"),
        ("image=1&layer=fc", "a map needs a feature map (B, C, h, w)"),
        ("image=1&method=nothing", "unknown method 'nothing'"),
        ("image=1&class=dog", "unknown class 'dog'; this model has: cat"),
    ],
)
def test_what_is_not_there_gets_a_message(server, query, said):
    status, answer, _ = server.ask(path=f"/explain?{query}")
    assert status == 400 and said in answer["error"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.7", "", "[::"])
def test_other_names_are_refused(server, host):
    """A site whose name suddenly points here must not read what this server knows."""
    for method, path in (("GET", "/"), ("POST", "/explain?image=1")):
        status, answer, _ = server.ask(method=method, path=path, Host=host)
        assert status == 403 and "--host" in answer["error"]


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "localhost:{}", "LOCALHOST", "[::1]:{}", "127.0.0.1:9"])
def test_its_own_names_are_not(server, host):
    assert server.ask(path="/explain?image=1", Host=host.format(server.port))[0] == 200


def test_who_may_reach_it():
    own = socket.gethostname()
    assert is_own_name("10.0.0.7:8000", "0.0.0.0") and is_own_name(f"{own}:8000", "0.0.0.0")
    assert is_own_name("box.lan:8000", "box.lan")
    assert not is_own_name("evil.example:8000", "0.0.0.0") and not is_own_name("10.0.0.7:8000", "127.0.0.1")
    assert [explorer.is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "box.lan")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_only_its_own_page_may_ask(server):
    here = f"127.0.0.1:{server.port}"
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "file://", "http://["):
        status, answer, _ = server.ask(path="/explain?image=1", Origin=origin)
        assert status == 403 and origin in answer["error"]
    assert server.ask(path="/explain?image=1", Origin=f"http://{here}")[0] == 200


def test_addresses_that_are_not_utf_8():
    """As servers other than uvicorn's may hand them on."""
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "root_path": "",
             "path": "/explain/", "raw_path": b"/explain/", "query_string": b"image=\xff",
             "headers": [(b"host", b"localhost")], "client": None, "server": ("localhost", 80)}  # fmt: skip
    sent = []

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    with ThreadPoolExecutor(1) as pool:  # a thread without an event loop
        pool.submit(asyncio.run, explorer_server.make_app(None, "", "localhost")(scope, receive, send)).result()
    assert sent[0]["status"] == 404


def test_what_a_browser_may_do_with_it(server):
    for method, path in (("GET", "/"), ("POST", "/explain?image=1"), ("GET", "/nowhere"), ("POST", "/explain")):
        _, _, headers = server.ask(method=method, path=path)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "*" not in policy
        assert "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


def test_when_many_ask_some_are_told_to_wait(server, monkeypatch):
    monkeypatch.setattr(explorer_server, "MAX_WAITING", 2)
    answers = []
    body = file_of(photo(1500, 1500))
    threads = [threading.Thread(target=lambda: answers.append(server.ask(body))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, *_ in answers} == {200, 503}
    assert all(headers["retry-after"] == "1" for status, _, headers in answers if status == 503)
    assert server.ask(body)[0] == 200


def test_slow_senders_do_not_keep_others_out(server, monkeypatch):
    monkeypatch.setattr(explorer_server, "MAX_RECEIVING", 3)
    head = b"POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nslow"
    with ExitStack() as stack:
        slow = []
        for _ in range(3):
            slow.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60)))
            slow[-1].sendall(head)
            time.sleep(0.3)
        assert server.ask(file_of(photo()))[0] == 200
        said = b""
        while b"came too slowly" not in said:
            said += (part := slow[0].recv(1000))
            assert part, said
        assert said.startswith(b"HTTP/1.1 408 ")
        slow[2].setblocking(False)
        with pytest.raises(BlockingIOError):
            slow[2].recv(1)


NETWORK = """
import time, torch, camlens
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.late = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)
    def forward(self, images):
        if len(images) == 1:
            time.sleep(0.5)
        return self.fc(self.late(images).mean(dim=(2, 3)))

def slow():
    torch.manual_seed(0)
    return camlens.Classifier(Slow(), ["a", "b"], (0.5,) * 3, (0.25,) * 3, (8, 8), name="slow", layers=["late"])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_sigterm_finishes_what_has_begun(tmp_path):
    (tmp_path / "slow.py").write_text(NETWORK)
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for n in range(4):
                photo(8 + n, 8).save(tmp_path / "data" / split / name / f"{n}.png")
    command = [sys.executable, "-m", "camlens", "explore", "slow:slow", "--data", "data", "--port", "0", "--out", "out"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=tmp_path, text=True, env={**os.environ, "PYTHONPATH": "."}, **pipes)
    port = int(process.stdout.readline().split("127.0.0.1:")[1].split()[0])
    answers = []

    def ask():
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/explain", file_of(photo()))
        answers.append(connection.getresponse().status)
        connection.close()

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    asking.join()
    said = process.communicate(timeout=60)[1]
    assert answers == [200] and process.returncode == 128 + signal.SIGTERM and "Traceback" not in said
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written - {"features.safetensors", "report.parquet", "parts"} == {"report.html", "report.json"}, (
        "no upload is written"
    )


def test_a_port_that_is_taken(server):
    with pytest.raises(camlens.errors.UsageError, match=f"cannot listen at 127.0.0.1, port {server.port}: "):
        explorer.serve(None, "", "127.0.0.1", server.port, print)


# In a real browser


def test_a_photo_is_uploaded(tab, canvas, server, tmp_path):
    path = tmp_path / "holiday.png"
    photo(400, 300).save(path)
    page = tab(server.address)
    page.locator("#upload").set_input_files(path)
    result = camlens.explain(classifier(), [photo(400, 300)], "hirescam", "late", "all")
    first, second = result.logits[0].argsort(descending=True).tolist()[:2]
    page.locator(f"#card h2:has-text('prediction {NAMES[first]}')").wait_for()
    assert "400 × 300, which the network sees at 16 × 16" in page.locator("#card").inner_text()
    assert page.locator(".views canvas").first.evaluate("c => c.width / c.height") == pytest.approx(4 / 3, abs=0.01)
    cells = result.maps[0, first] - result.maps[0, second]
    assert f"add up to {float(cells.sum()):+.2f}".replace("-", "−") in page.locator(".sum").inner_text()
    assert page.locator("#asked [data-image]").count() == 1
    before = canvas(page, 1)
    page.locator("[data-control=layer]").select_option("early")
    page.wait_for_function("() => document.querySelector('.controls').innerText.includes('8 × 8 cells')")
    assert not np.array_equal(canvas(page, 1), before)


def test_a_test_image_is_picked_and_the_link_shows_it_again(tab, server):
    right = next(k for k in range(60) if k not in report_facts(server)["images"]["index"])
    page = tab(server.address)
    page.locator("#number").fill(str(right))
    page.keyboard.press("Enter")
    page.locator(f"#card small:has-text('test image {right}')").wait_for()
    assert "correct prediction" in page.locator("#card h2").inner_text()
    page.locator("[data-control=method]").select_option("grad-cam")
    page.wait_for_function("() => location.hash.includes('grad-cam')")
    again = tab(server.address, "#" + page.url.split("#")[1])
    again.locator(f"#card small:has-text('test image {right}')").wait_for()
    assert again.locator("[data-control=method]").input_value() == "grad-cam"


def report_facts(server):
    text = server.ask(method="GET", path="/")[1].decode()
    return json.loads(text.split(FACTS_TAG)[1].split("</script>")[0])


def test_a_bad_upload_is_said_in_the_page(browser, server, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    page = browser.new_page()  # the browser itself logs the answer's status as an error
    page.goto(server.address)
    page.locator("#upload").set_input_files(tmp_path / "text.png")
    page.locator("#answer:has-text('not a picture of a known kind')").wait_for()
    (tmp_path / "moving.gif").write_bytes(animation())
    page.locator("#upload").set_input_files(tmp_path / "moving.gif")
    page.locator("#card small:has-text('the first of its 3 frames')").wait_for()
    assert page.locator("#answer").inner_text() == ""
    page.close()


def test_everyone_can_use_it(tab, axe, server, tmp_path):
    photo().save(tmp_path / "a.png")
    page = tab(server.address, viewport={"width": 1400, "height": 900}, bypass_csp=True)
    page.locator("#upload").set_input_files(tmp_path / "a.png")
    page.locator("#card h2:has-text('prediction')").wait_for()
    assert not axe(page)
