"""The error report, served: the same page, and one address that says what the network makes of any picture.

`POST /explain` takes the file of a picture as its body, or `?image=17` for a test image; `layer`, `method` and `class`
choose the maps. The answer is JSON in the page's own words. Nothing of it is kept, in memory or on disk.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from camlens.analyse.evaluation import Evaluation, evaluate
from camlens.analyse.evidence import Reading, centred, read_once
from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.data.pictures import decode_picture, quiet_pillow
from camlens.errors import CamlensError, UsageError
from camlens.files import out_folder, write_text
from camlens.maps.methods import METHODS, find_method
from camlens.model.classifier import Classifier
from camlens.show.report import page

MOST_BYTES = 10_000_000
MOST_PIXELS = 50_000_000
SIDE = 320  # pixels, to which larger pictures are made smaller for the page
NEAREST = 6  # training images
QUEUE = 8  # pictures that may wait for the network
OPEN = 64  # requests whose pictures are being received
PATIENCE = 30  # seconds for a picture to arrive


class Explorer:
    """What a network makes of a single picture, in the words of the error report's page.

    data: the test images; train, learned: the training images and what the network makes of them, or None
    """

    def __init__(self, model: Classifier, data: Dataset, train: Dataset | None, learned: Reading | None) -> None:
        self.model, self.data, self.train = model, data, train
        self.centre = None if learned is None else learned.features.mean(dim=0)
        self.near = None if learned is None or self.centre is None else centred(learned, self.centre)

    def answer(self, picture: int | bytes, layer: str, method: str, wanted: str) -> dict[str, Any]:
        """The maps and all that goes with them, for the number of a test image or the content of a picture's file.

        layer, method: besides the report's method at the last layer; "" for that alone
        wanted: a class whose maps are to be among them, or ""

        Raises `DataError` for what is no picture, `UsageError` for a number, layer, method or class that is not there.
        """
        if isinstance(picture, int):
            image, frames = self.numbered(picture), 1
        else:
            image, frames = decode_picture(picture, MOST_PIXELS)
        only = self.model.prepare(image)
        label = int(self.data.labels[picture]) if isinstance(picture, int) else None
        name = self.data.files[picture] if isinstance(picture, int) else "your picture"
        one = InMemoryDataset(
            name=self.data.name,
            split=self.data.split,
            class_names=self.model.class_names,
            pixels=self.model.denormalise(only).cpu(),
            labels=torch.tensor([label or 0]),
            files=(name,),
            original_size=f"{image.height}x{image.width}",
        )
        reading = page.read_if_possible(self.model, one, 1)
        evaluation = evaluate(self.model, one) if reading is None else Evaluation(self.model, one, reading.logits)
        first = torch.zeros(1, dtype=torch.int64)
        classes = page.shown_classes(evaluation, first)
        if wanted and not bool((classes == self.model.class_index(wanted)).any()):
            classes[0, -1] = self.model.class_index(wanted)
        maps = page.maps_of(evaluation, first, classes, self.model.layers[-1:])  # those that add up to the logits
        chosen = None
        if layer or method:
            layer, method = layer or self.model.layers[-1], find_method(method or page.METHOD).name
            of_layer = page.maps_of(evaluation, first, classes, [layer], method)[layer]
            chosen = {"method": method, **page.packed(layer, of_layer, last=True)}
        return {
            "index": picture if isinstance(picture, int) else None,
            "file": name,
            "label": label,
            "size": [image.height, image.width],
            "frames": frames,
            "model": page.opinion(evaluation, first, classes, maps),
            "chosen": chosen,
            "pictures": page.sheets([shown(image)], 1, SIDE),
            "evidence": None if reading is None else self.nearest(reading),
        }

    def numbered(self, number: int) -> Image.Image:
        """The test image of this number. Raises `UsageError` where there is none."""
        if not 0 <= number < len(self.data):
            raise UsageError(f"there is no image {number}; {self.data.name} has 0 to {len(self.data) - 1}")
        return Image.fromarray(self.data.images(torch.tensor([number]))[0].permute(1, 2, 0).numpy())

    def nearest(self, reading: Reading) -> dict[str, Any] | None:
        """The training images nearest to the one that was read."""
        if self.near is None or self.centre is None or self.train is None:
            return None
        found = (centred(reading, self.centre) @ self.near.T).topk(min(NEAREST, len(self.near)))
        return page.shown_evidence({"nearest": found.indices}, {"nearest": found.values}, self.train)


def shown(image: Image.Image) -> Tensor:
    """The picture as the page shows it, (1, 3, h, w) uint8 of at most `SIDE` pixels a side."""
    share = min(1.0, SIDE / max(image.size))
    width, height = (max(1, round(share * side)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    return pixels.view(1, small.height, small.width, 3).permute(0, 3, 1, 2)


def prepare(model: Classifier, test: Dataset, train: Dataset | None, out: Path, batch: int) -> tuple[Explorer, str]:
    """An explorer and its page. The report in `out` is taken where it is of these; otherwise it is made there."""
    test, report = model.match(test), out_folder(out) / "report.html"
    train = None if train is None else model.match(train)
    facts = page.facts_in(report)
    if {key: facts.get(key) for key in ("id", "learned", "camlens")} != page.identity(model, test, train):
        facts = page.look([model], test, train, out, batch)
        write_text(report, page.html(facts))
    learned = None
    if train is not None and facts["plane"] is not None:  # the network has features
        learned = read_once(model, train, out / page.FEATURES, batch)
    facts["live"] = {
        "methods": [name for name, method in METHODS.items() if method.needs == ("activations", "gradients")],
        "method": page.METHOD,
        "layers": list(model.layers),
    }
    return Explorer(model, test, train, learned), page.html(facts)


class Busy(HTTPException):
    """More is asked than can be answered soon."""

    def __init__(self) -> None:
        super().__init__(503, "too many pictures at once; try again in a second", {"Retry-After": "1"})


class Desk:
    """Takes requests for an explorer: receives many pictures at a time, and shows them to the network one by one."""

    def __init__(self, explorer: Explorer, text: str) -> None:
        self.explorer, self.text = explorer, text
        self.worker = ThreadPoolExecutor(1)  # a network computes on all cores as it is
        self.receiving = self.waiting = 0

    async def home(self, _request: Request) -> Response:
        """The page."""
        return HTMLResponse(self.text)

    async def explain(self, request: Request) -> Response:
        """What the network makes of the picture in the request."""
        given = request.query_params
        number = given.get("image")
        if number is None:
            picture: int | bytes = await self.received(request)
        elif number.isdecimal() and len(number) < 10:
            picture = int(number)
        else:
            raise HTTPException(400, f"image is {number!r}; expected the number of a test image")
        if self.waiting >= QUEUE:
            raise Busy
        names = [given.get(name, "") for name in ("layer", "method", "class")]
        self.waiting += 1
        try:
            work = partial(self.explorer.answer, picture, *names)
            return JSONResponse(await asyncio.get_running_loop().run_in_executor(self.worker, work))
        except CamlensError as error:
            raise HTTPException(400, str(error)) from error
        except Exception as error:  # a network may raise anything
            raise HTTPException(500, f"{type(error).__name__}: {error}") from error
        finally:
            self.waiting -= 1

    async def received(self, request: Request) -> bytes:
        """The body of the request."""
        if self.receiving >= OPEN:
            raise Busy
        self.receiving += 1
        try:
            content, size = await asyncio.wait_for(body(request), PATIENCE)
        except asyncio.TimeoutError as error:
            raise HTTPException(408, f"the picture did not arrive within {PATIENCE} seconds") from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the picture was broken off") from error
        finally:
            self.receiving -= 1
        if size > MOST_BYTES:
            raise HTTPException(413, f"the file has {size / 1e6:.1f} MB; expected {MOST_BYTES / 1e6:.0f} at most")
        return content


async def body(request: Request) -> tuple[bytes, int]:
    """The first bytes of a request's body, as many as are taken, and how many there were.

    What is too much is received all the same, so that the sender comes to hear the answer.
    """
    content, size = bytearray(), 0
    async for part in request.stream():
        size += len(part)
        content += part[: max(0, MOST_BYTES - len(content))]
    return bytes(content), size


async def complain(_request: Request, error: Exception) -> Response:
    """An error, for the page to show."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class Guard:
    """Lets in what was meant for this server and comes from its own page, and says what a browser may do with it.

    Without the check of the Host, any web site could bring its own name to point here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app, self.host = app, host
        self.headers = {
            "Content-Security-Policy": f"{page.policy(live=True)}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        given = Headers(scope=scope)
        host, origin = given.get("host", ""), given.get("origin")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        app = self.app
        if not known(host, self.host):
            app = JSONResponse({"error": f"this server is not {host!r}; --host gives it another name"}, 403)
        elif origin is not None and urlsplit(origin).netloc != host:
            app = JSONResponse({"error": f"requests from {origin} are not answered"}, 403)
        await app(scope, receive, with_headers)


def known(called: str, host: str) -> bool:
    """Whether a Host header names a server that listens at `host`, at whichever port it is reached."""
    try:
        name = urlsplit(f"//{called}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", "127.0.0.1", "::1", host.lower()):
        return True
    own = socket.gethostname().lower()
    return not is_loopback(host) and (is_address(name) or name in (own, f"{own}.local"))


def is_address(host: str) -> bool:
    """Whether it is a number and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def serve(explorer: Explorer, text: str, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until a signal comes; what has begun is finished first.

    text: the page; port: 0 for any that is free; ready: called with the address
    Raises `UsageError` where it cannot listen there.
    """
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(f"cannot listen at {host}, port {port}: {error.strerror}; choose --host or --port") from error
    desk = Desk(explorer, text)
    app = Starlette(
        routes=[Route("/", desk.home), Route("/explain", desk.explain, methods=["POST"])],
        exception_handlers={HTTPException: complain},
    )
    settings: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False}
    config = uvicorn.Config(Guard(app, host), lifespan="off", ws="none", **settings)
    with listening, quiet_pillow():
        ready(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listening])
