"""HTML pages in one file: a template with its style sheet and script, and a policy that allows these two alone."""

import base64
import hashlib
import io
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from camlens.show.palette import custom_properties


def render_page(package: str, script: str, live: bool = False, **values: Any) -> str:
    """Fill in a page's template.

    Args:
        package: The package whose folder `static` has page.html and page.css.
        script: The page's script.
        live: Whether the page is served and may send requests to its server.
        **values: Names in the template; unless they are `Markup`, they are escaped.
    """
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(read_static(package, "page.html"))
    style = style_sheet(package)
    policy = content_security_policy(style, script, live)
    return template.render(policy=policy, style_sheet=Markup(style), script=Markup(script), **values)


def style_sheet(package: str) -> str:
    """The style sheet of a package's page, with the colours of the palette."""
    return custom_properties() + read_static(package, "page.css")


def content_security_policy(style: str, script: str, live: bool = False) -> str:
    """A page's Content-Security-Policy: only its own style sheet and script, by their hashes, and no requests.

    Args:
        style: The style sheet.
        script: The script.
        live: Whether the page is served and may send requests to its server.
    """
    of_style, of_script = (encode(hashlib.sha256(text.encode()).digest()) for text in (style, script))
    return (
        f"default-src 'none'; style-src 'sha256-{of_style}'; script-src 'sha256-{of_script}'; img-src data: blob:; "
        f"connect-src {'self' if live else 'none'!r}; base-uri 'none'; form-action 'none'"
    )


def webp_uri(image: Image.Image, **settings: Any) -> str:
    """A picture as a data URI. `settings` are those of Pillow's encoder."""
    file = io.BytesIO()
    image.save(file, "WEBP", **settings)
    return f"data:image/webp;base64,{encode(file.getvalue())}"


def encode(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode()


def read_static(package: str, name: str) -> str:
    """A file in the folder `static` of a package."""
    return (files(package) / "static" / name).read_text(encoding="utf-8")
