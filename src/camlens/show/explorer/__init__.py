"""The error report, served: the same page, and one address that says what the network predicts for any picture.

`POST /explain` takes the file of a picture as its body, or `?image=17` for an image of the data set; `layer`, `method`
and `class` choose the maps. The answer is JSON (`camlens.show.report.schema.Answer`). Nothing of it is kept, in memory
or on disk.
"""

from camlens.show.explorer.answer import Explorer, prepare
from camlens.show.explorer.server import is_loopback, serve

__all__ = ["Explorer", "is_loopback", "prepare", "serve"]
