"""The orders in which errors are listed. Importing this imports no torch: the command line lists them in its help."""

from typing import Literal

Sort = Literal["confidence", "margin", "random"]
ORDERS: dict[Sort, str] = {
    "confidence": "the most confident first",
    "margin": "the largest margins first",
    "random": "picked at random",
}
