"""The ten shapes of the drawn data set, as signed distances.

Points of the plane are complex numbers, x to the right and y upwards. A shape is a function of points that is negative
inside. Each is of about unit size and symmetric about the y axis, so a flipped image keeps its class.
"""

import cmath
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.complexfloating]
Distances = npt.NDArray[np.floating]


def disc(points: Points, radius: float, centre: complex = 0) -> Distances:
    """A disc."""
    return abs(points - centre) - radius


def box(points: Points, width: float, height: float) -> Distances:
    """A rectangle around the origin; width and height are measured from there."""
    distances: Distances = np.maximum(abs(points.real) - width, abs(points.imag) - height)
    return distances


def half_plane(points: Points, degrees: float, distance: float) -> Distances:
    """The half-plane with the origin whose edge is at `distance` from it in the direction `degrees`."""
    return (points * cmath.rect(1, -math.radians(degrees))).real - distance


def mirrored(points: Points) -> Points:
    """The points with those on the left moved to the right, so that what is drawn there appears on both sides."""
    return np.where(points.real < 0, -points.conj(), points)


def triangle(points: Points, degrees: float, slope: float, floor: float) -> Distances:
    """An isosceles triangle: the distances from the origin to its slopes and to its floor."""
    return np.maximum(half_plane(mirrored(points), degrees, slope), half_plane(points, -90, floor))


def heart(points: Points) -> Distances:
    """A heart: a square on its tip, and two discs."""
    points = mirrored(points)
    tip = np.maximum(half_plane(points, 45, 0.6), half_plane(points, -45, 0.6))
    return np.minimum(tip, disc(points, 0.6, 0.42 + 0.42j))


def star(points: Points) -> Distances:
    """A star: a point is inside if it is beyond at most one of the five lines of a pentagram."""
    second_largest: Distances = np.sort([half_plane(points, 90 + 72 * corner, 0.34) for corner in range(5)], axis=0)[-2]
    return second_largest


SHAPES: dict[str, Callable[[Points], Distances]] = {
    "disc": lambda points: disc(points, 0.85),
    "ring": lambda points: abs(disc(points, 0.75)) - 0.22,
    "crescent": lambda points: np.maximum(disc(points, 1.0, -0.1j), -disc(points, 0.8, 0.4j)),
    "drop": lambda points: np.minimum(triangle(points, 30, 0.55, 0.0), disc(points, 0.66, -0.22j)),
    "heart": heart,
    "triangle": lambda points: triangle(points, 30, 0.52, 0.52),
    "square": lambda points: box(points, 0.75, 0.75),
    "cross": lambda points: np.minimum(box(points, 1.0, 0.33), box(points, 0.33, 1.0)),
    "star": star,
    "arrow": lambda points: np.minimum(triangle(points, 40, 0.7, 0.0), box(points + 0.5j, 0.3, 0.55)),
}
CLASSES = tuple(SHAPES)
