"""The explorer's web server: the page, and an address that explains any picture, protected against other sites."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from camlens.data.pictures import quiet_pillow
from camlens.errors import CamlensError, UsageError
from camlens.show.explorer.answer import Explorer
from camlens.show.html import content_security_policy, style_sheet
from camlens.show.report.page import PACKAGE, script

MAX_BYTES = 10_000_000  # of a picture's file
MAX_WAITING = 8  # pictures that may wait for the network
MAX_RECEIVING = 64  # requests whose pictures are being received; with one more, the first one is cancelled
TIMEOUT = 30  # seconds for a picture to arrive


class RequestHandler:
    """Receives many pictures at a time and passes them to the explorer one by one.

    Args:
        explorer: Explains a picture.
        page: The HTML of the page.
    """

    def __init__(self, explorer: Explorer, page: str) -> None:
        self.explorer, self.page = explorer, page
        self.worker = ThreadPoolExecutor(1)  # one network already uses all cores
        self.receiving: list[asyncio.Future[tuple[bytes, int]]] = []  # the oldest first
        self.waiting = 0

    async def home(self, _request: Request) -> Response:
        """The page."""
        return HTMLResponse(self.page)

    async def explain(self, request: Request) -> Response:
        """The explorer's answer for the picture in the request."""
        query = request.query_params
        number = query.get("image")
        if number is not None and not (number.isdecimal() and len(number) < 10):
            raise HTTPException(400, f"image is {number!r}; expected the number of a test image")
        picture = await self.receive(request) if number is None else int(number)
        if self.waiting >= MAX_WAITING:
            raise HTTPException(503, "too many pictures at once; try again in a second", {"Retry-After": "1"})
        arguments = [query.get(name, "") for name in ("layer", "method", "class")]
        self.waiting += 1
        try:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self.worker, lambda: self.explorer.answer(picture, *arguments))
            return JSONResponse(answer)
        except CamlensError as error:
            raise HTTPException(400, str(error)) from error
        except Exception as error:  # a network may raise anything
            raise HTTPException(500, f"{type(error).__name__}: {error}") from error
        finally:
            self.waiting -= 1

    async def receive(self, request: Request) -> bytes:
        """The body of the request."""
        reading = asyncio.ensure_future(read_body(request))
        self.receiving.append(reading)
        if len(self.receiving) > MAX_RECEIVING:  # slow requests must not block all others
            self.receiving.pop(0).cancel()
        try:
            content, size = await asyncio.wait_for(reading, TIMEOUT)
        except asyncio.CancelledError as error:
            raise HTTPException(408, "the picture came too slowly while others waited; try again") from error
        except asyncio.TimeoutError as error:
            raise HTTPException(408, f"the picture did not arrive within {TIMEOUT} seconds") from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the connection broke while the picture was sent") from error
        finally:
            if reading in self.receiving:
                self.receiving.remove(reading)
        if size > MAX_BYTES:
            raise HTTPException(413, f"the file has {size / 1e6:.1f} MB; expected {MAX_BYTES / 1e6:.0f} at most")
        return content


async def read_body(request: Request) -> tuple[bytes, int]:
    """The first `MAX_BYTES` of a request's body, and the length of all of it.

    The rest is received and discarded, since the sender reads the response only afterwards.
    """
    content, size = bytearray(), 0
    async for part in request.stream():
        size += len(part)
        content += part[: max(0, MAX_BYTES - len(content))]
    return bytes(content), size


async def answer_with_error(_request: Request, error: Exception) -> Response:
    """An error, as JSON for the page to show."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class Guard:
    """Refuses requests that are for another host name or come from another site's page; sets security headers.

    Without the check of the Host header, any web site could make its own name point here (DNS rebinding).

    Args:
        app: Answers the other requests.
        host: Name or address at which the server listens.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app, self.host = app, host
        policy = content_security_policy(style_sheet(PACKAGE), script(), live=True)
        self.headers = {
            "Content-Security-Policy": f"{policy}; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        headers, app = Headers(scope=scope), self.app
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_own_name(host, self.host):
            app = JSONResponse({"error": f"this server is not {host!r}; --host gives it another name"}, 403)
        elif origin is not None and origin.partition("://")[2] != host:
            app = JSONResponse({"error": f"requests from {origin} are not answered"}, 403)
        await app(scope, receive, send_with_headers)


def is_own_name(header: str, host: str) -> bool:
    """Whether a Host header names a server that listens at `host`, at any port."""
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", "127.0.0.1", "::1", host.lower()):
        return True
    hostname = socket.gethostname().lower()
    return not is_loopback(host) and (is_address(name) or name in (hostname, f"{hostname}.local"))


def is_address(host: str) -> bool:
    """Whether it is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def make_app(explorer: Explorer, page: str, host: str) -> ASGIApp:
    """The web application: the page and the explorer, behind `Guard`."""
    handler = RequestHandler(explorer, page)
    routes = [Route("/", handler.home), Route("/explain", handler.explain, methods=["POST"])]
    application = Starlette(routes=routes, exception_handlers={HTTPException: answer_with_error})
    application.router.redirect_slashes = False  # fails on queries that are not UTF-8
    return Guard(application, host)


def serve(explorer: Explorer, page: str, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve until a signal arrives; running requests are finished first.

    Args:
        explorer: Explains a picture.
        page: The HTML of the page.
        host: Name or address to listen at.
        port: Port to listen at; 0 for any free one.
        on_ready: Called with the address, "http://127.0.0.1:8000".

    Raises:
        UsageError: It cannot listen there.
    """
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(f"cannot listen at {host}, port {port}: {error.strerror}; choose --host or --port") from error
    app = make_app(explorer, page, host)
    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, access_log=False, server_header=False)
    with listening, quiet_pillow():
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listening])
