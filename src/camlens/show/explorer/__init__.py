"""The error report as a web server: the same page, and an address that predicts and explains any picture.

`POST /explain` takes a picture file as its body, or `?image=17` for an image of the data set; `layer`, `method` and
`class` choose the maps. The response is JSON (`camlens.show.report.schema.Answer`). Pictures are kept neither in memory
nor on disk.
"""

from camlens.show.explorer.answer import Explorer, prepare_explorer
from camlens.show.explorer.server import is_loopback, serve

__all__ = ["Explorer", "is_loopback", "prepare_explorer", "serve"]
