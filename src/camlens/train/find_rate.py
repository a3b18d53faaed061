"""The learning-rate range test: the losses of steps at increasing rates, and the peak rate to train with.

Smith 2015, arXiv 1506.01186, section 3.3. The rate increases exponentially, and a tenth of the rate with the lowest
loss is proposed, as in fastai.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
import numpy.typing as npt

from camlens.errors import CamlensError
from camlens.progress import track
from camlens.train.trainer import Trainer

RATES = np.geomspace(1e-4, 10, 200)  # one for each step
DIVERGED = 4.0  # the test ends at this multiple of the first loss
WINDOW = np.hanning(23)[1:-1]  # by which losses are averaged, over about half a power of ten in rates

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RateTest:
    """The result of a range test.

    Attributes:
        rates: (n,), the learning rate of each step, increasing.
        losses: (n,), the training loss of each step.
        smoothed: (n,), the losses averaged over neighbouring steps.
    """

    rates: Floats
    losses: Floats
    smoothed: Floats

    @property
    def lowest(self) -> int:
        """The step with the lowest smoothed loss."""
        return int(self.smoothed.argmin())

    @property
    def proposal(self) -> float:
        """The peak learning rate to train with, to two digits; nan if no rate lowered the loss."""
        return float(f"{self.rates[self.lowest] / 10:.1e}") if self.lowest else np.nan

    def in_words(self) -> str:
        """The result as a line of text."""
        at, proposed = f"{self.rates[self.lowest]:.2g}", f"--set learning_rate={self.proposal:g}"
        if not self.lowest:
            return f"no learning rate from {at} lowered the loss, so none is proposed"
        end = ", the highest that was tried" if self.lowest == len(RATES) - 1 else ""
        return f"the loss is lowest at a learning rate of {at}{end}; a tenth of it: {proposed}"


def find_rate(trainer: Trainer) -> RateTest:
    """Do the range test with the network, images and recipe of a run that has not started. Nothing is written.

    Args:
        trainer: It cannot be used for training afterwards.
    """
    return range_test(losses_at_rates(trainer))


def losses_at_rates(trainer: Trainer) -> Iterator[float]:
    """Do a step at each of `RATES`, on images of the recipe's last size, and yield its loss."""
    side, loader = trainer.recipe.sizes[-1], trainer.loader
    batches = chain.from_iterable(loader.batches(epoch, side) for epoch in count())
    for rate, batch in zip(track(RATES, "trying learning rates"), batches, strict=False):
        trainer.set_learning_rate(float(rate))
        trainer.train_step(batch)
        yield float(trainer.losses.pop()[0])


def range_test(losses: Iterable[float]) -> RateTest:
    """Collect losses until they diverge, and smooth them.

    Args:
        losses: One for each of `RATES`, computed on demand. The first one that is not finite, or above `DIVERGED` times
            the first loss, ends the test and is left out.

    Raises:
        CamlensError: The first loss is not finite.
    """
    collected: list[float] = []
    for loss in losses:
        if not loss <= DIVERGED * (collected or [loss])[0] < np.inf:
            break
        collected.append(loss)
    if not collected:
        raise CamlensError(f"the first loss, at a learning rate of {RATES[0]:g}, is {loss}; are the images in order?")
    values, half = np.array(collected), len(WINDOW) // 2
    sums, norms = (np.convolve(signal, WINDOW)[half:-half] for signal in (values, np.ones_like(values)))
    return RateTest(RATES[: len(values)], values, sums / norms)
