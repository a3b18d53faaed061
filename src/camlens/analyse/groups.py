"""Groups: what errors have in common, in properties of the pictures and in columns of the user's.

A rule is one condition on the images of a class or of all ("dark"), or two ("dark and blurred"). All rules are tried,
so some look bad by chance: a group is kept only where its statistic is beyond the 99th percentile of the largest that
the whole search finds when the errors of each class are dealt out anew at random, 1,000 times. Its rate is stated by
cross-fitting: in each of five parts of the images, of the rule that the other four would have chosen near it. Nothing
comes from the network's evidence or features, which would only say again that the network was unsure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camlens.analyse.evaluation import wilson_interval
from camlens.analyse.properties import Property
from camlens.progress import track

SHARES = (
    0.01,
    0.02,
    0.04,
    0.07,
    0.1,
    0.15,
    0.22,
    0.35,
)  # of a class, or of all: images with the lowest or highest values
FEWEST_IMAGES, FEWEST_ERRORS = 20, 20  # of a group; of the data, below which no group is looked for
CATEGORIES = 12  # of a property: the commonest are tried
SECOND = 0.5  # by how much a second condition must raise the statistic, as there are many more rules of two
PERMUTATIONS, PERCENTILE = 1000, 0.99
FOLDS = 5
NEAR = 0.5  # images that two rules share, of those in either, from which one stands for the other in cross-fitting
MOST = 8  # groups
AT_ONCE = 250  # permutations, and rules


@dataclass(frozen=True)
class Condition:
    """What an image must fulfil.

    Attributes:
        words: An adjective of pictures: "dark".
        meaning: The same exactly: "brightness at most 0.21".
    """

    words: str
    meaning: str


@dataclass(frozen=True)
class Group:
    """Images with more errors than others.

    Attributes:
        class_name: The label of all its images; None for those of any class.
        conditions: One or two, which its images fulfil and no other of the class.
        indices: Its images, (n,) int64.
        errors: How many of them are wrong.
        rate: Fraction of them that is wrong, by cross-fitting; a little above it in `errors` / n lies what the search
            gained by choosing.
        elsewhere: Fraction of the other images of the class, or of all, that is wrong, likewise.
        interval: Of `rate`, at 95 % (Wilson).
        statistic: Signed root of the likelihood ratio, inside against outside.
    """

    class_name: str | None
    conditions: tuple[Condition, ...]
    indices: Tensor
    errors: int
    rate: float
    elsewhere: float
    interval: tuple[float, float]
    statistic: float

    @property
    def sentence(self) -> str:
        """The group in words: "dark pictures of dog: 31 % wrong against 9 % (58 pictures)"."""
        what = ", ".join(condition.words for condition in self.conditions)
        whose = "" if self.class_name is None else f" of {self.class_name}"
        rates = f"{100 * self.rate:.0f} % wrong against {100 * self.elsewhere:.0f} %"
        return f"{what} pictures{whose}: {rates} ({len(self.indices):,} pictures)"


@dataclass(frozen=True)
class Groups:
    """What was found.

    Attributes:
        found: At most `MOST` groups, the most certain first.
        tried: Number of rules.
        threshold: What a statistic must exceed.
        note: One sentence on the result, or why there is none.
    """

    found: list[Group]
    tried: int
    threshold: float
    note: str


@dataclass(frozen=True)
class Scope:
    """All rules on the images of a class, or on all images.

    Attributes:
        class_index: -1 for all.
        indices: The images (n,) int64.
        strata: (n, S) float32, one-hot: the class of each, within which errors are dealt out.
        holds: (R, n) bool, where each rule holds.
        conditions: Of each rule.
    """

    class_index: int
    indices: Tensor
    strata: Tensor
    holds: Tensor
    conditions: list[tuple[Condition, ...]]

    def statistics(self, wrong: Tensor, counted: Tensor) -> Tensor:
        """How many more errors than by chance there are where each rule holds, (R, P); -inf for too few images.

        The signed root of the likelihood ratio (G test) of errors and right images, inside and outside; by chance, each
        class has its errors anywhere.

        Args:
            wrong: (N, P) bool, P times the errors among all images of the data.
            counted: (N,) bool, the images that count.
        """
        weights = counted[self.indices].float()
        flags = wrong[self.indices].float() * weights[:, None]  # (n, P)
        of_class = self.strata * weights[:, None]  # (n, S)
        rates = (of_class.T @ flags) / of_class.sum(dim=0).clamp(min=1)[:, None]  # (S, P)
        total, errors = weights.sum(), flags.sum(dim=0)
        found = []
        for holds in self.holds.split(AT_ONCE):
            images = holds.float() @ of_class  # (r, S)
            inside, expected, size = holds.float() @ flags, images @ rates, images.sum(dim=1, keepdim=True)
            cells = (
                (inside, expected),
                (size - inside, size - expected),
                (errors - inside, errors - expected),
                (total - size - errors + inside, total - size - errors + expected),
            )
            ratios = [torch.xlogy(count, count / by_chance.clamp(min=1e-6)) for count, by_chance in cells]
            root = (2 * torch.stack(ratios).sum(dim=0).clamp(min=0)).sqrt() * (inside - expected).sign()
            found.append(root.masked_fill(size < FEWEST_IMAGES, -torch.inf))
        extra = torch.tensor([len(conditions) - 1 for conditions in self.conditions])
        return torch.cat(found) - SECOND * extra[:, None]


def find_groups(
    labels: Tensor, wrong: Tensor, properties: Sequence[Property], class_names: Sequence[str], seed: int = 0
) -> Groups:
    """Find groups of images with more errors than the others of their class, or of all classes.

    Args:
        labels: (N,) int64.
        wrong: (N,) bool, the errors.
        properties: Of these images.
        class_names: K names.
        seed: Of the permutations, and of the parts for cross-fitting.
    """
    errors = int(wrong.sum())
    if errors < FEWEST_ERRORS:
        few = f"{errors} errors are too few to find what they have in common; it takes {FEWEST_ERRORS}"
        return Groups([], 0, torch.inf, f"No groups were looked for: {few}.")
    scopes = list(make_scopes(labels, properties))
    tried = sum(len(scope.conditions) for scope in scopes)
    if not tried:
        few = f"no property divides them into parts of {FEWEST_IMAGES} or more"
        return Groups([], 0, torch.inf, f"No groups were looked for among {len(labels):,} images: {few}.")
    generator = torch.Generator().manual_seed(seed)
    threshold = exceeded_by_chance(scopes, labels, wrong, generator)
    folds = shuffled(labels, torch.arange(len(labels))[:, None], 1, generator)[:, 0] % FOLDS
    left = torch.ones_like(wrong)  # images that are in no group yet
    found: list[Group] = []
    while len(found) < MOST:
        statistics = [scope.statistics(wrong[:, None], left)[:, 0] for scope in scopes]
        best = max(range(len(scopes)), key=lambda number: float(statistics[number].max()))
        if (statistic := float(statistics[best].max())) <= threshold:
            break
        group = describe(scopes[best], int(statistics[best].argmax()), wrong, folds, class_names, statistic)
        found.append(group)
        left[group.indices] = False
    said = f"{tried:,} rules were tried on {errors:,} errors among {len(labels):,} images."
    return Groups(found, tried, threshold, said if found else f"None was found: {said}")


def make_scopes(labels: Tensor, properties: Sequence[Property]) -> Iterator[Scope]:
    """The rules on all images, and on those of each class, where there are any."""
    for class_index in (-1, *labels.unique().tolist()):
        indices = (labels == class_index).nonzero()[:, 0] if class_index >= 0 else torch.arange(len(labels))
        single = [
            (number, condition, where)
            for number, prop in enumerate(properties)
            for condition, where in make_conditions(prop, prop.values[indices])
        ]
        if not single:
            continue
        numbers, holds = torch.tensor([number for number, _, _ in single]), torch.stack([where for *_, where in single])
        shared, counts = holds.float() @ holds.float().T, holds.sum(dim=1)
        adds = (shared >= FEWEST_IMAGES) & (shared < torch.minimum(counts[:, None], counts))  # to both conditions
        firsts, seconds = (adds & (numbers[:, None] < numbers)).nonzero().T
        conditions: list[tuple[Condition, ...]] = [(condition,) for _, condition, _ in single]
        conditions += [(single[i][1], single[j][1]) for i, j in zip(firsts.tolist(), seconds.tolist(), strict=True)]
        strata = (labels[indices, None] == labels[indices].unique()).float()
        yield Scope(class_index, indices, strata, torch.cat([holds, holds[firsts] & holds[seconds]]), conditions)


def make_conditions(prop: Property, values: Tensor) -> Iterator[tuple[Condition, Tensor]]:
    """The conditions on one property of n images, each with where it holds, (n,) bool; for enough images, not for all.

    Args:
        prop: The property.
        values: Its values for these images, (n,).
    """
    known = values[~values.isnan()]
    conditions: dict[Condition, Tensor] = {}
    if prop.categories:
        counts = torch.bincount(known.long(), minlength=len(prop.categories))
        for place in counts.argsort(descending=True, stable=True)[:CATEGORIES].tolist():
            name = prop.categories[place]
            conditions[Condition(prop.words[0].format(name), f"{prop.name} is {name}")] = values == place
    elif len(known):
        low, high = prop.words
        for share in SHARES:
            for words, sign, compared in ((low, 1, "most"), (high, -1, "least")):
                limit = sign * (sign * known).quantile(share, interpolation="lower")
                meaning = f"{prop.name} at {compared} {float(limit):.4g}"
                conditions[Condition(words, meaning)] = sign * values <= sign * limit
    for condition, where in conditions.items():
        if FEWEST_IMAGES <= int(where.sum()) < len(values):
            yield condition, where


def shuffled(labels: Tensor, values: Tensor, times: int, generator: torch.Generator) -> Tensor:
    """Values (N, 1) dealt out anew among the images of each class, several times: (N, times)."""
    dealt = values.repeat(1, times)
    for label in labels.unique():
        indices = (labels == label).nonzero()[:, 0]
        orders = torch.rand(len(indices), times, generator=generator).argsort(dim=0)
        dealt[indices] = values[indices, 0][orders]
    return dealt


def exceeded_by_chance(scopes: Sequence[Scope], labels: Tensor, wrong: Tensor, generator: torch.Generator) -> float:
    """The 99th percentile of the largest statistic where errors are dealt out at random within classes."""
    largest, everything = [], torch.ones_like(wrong)
    for _ in track(range(PERMUTATIONS // AT_ONCE), "looking for what errors have in common"):
        dealt = shuffled(labels, wrong[:, None], AT_ONCE, generator)
        of_scopes = [scope.statistics(dealt, everything).amax(dim=0) for scope in scopes]
        largest.append(torch.stack(of_scopes).amax(dim=0))
    return float(torch.cat(largest).quantile(PERCENTILE))


def describe(
    scope: Scope, rule: int, wrong: Tensor, folds: Tensor, class_names: Sequence[str], statistic: float
) -> Group:
    """A rule as a group, its rates by cross-fitting over parts of the images, `folds` (N,)."""
    holds, errors, part = scope.holds[rule], wrong[scope.indices], folds[scope.indices]
    shared = (scope.holds & holds).sum(dim=1) / (scope.holds | holds).sum(dim=1)
    near = shared >= NEAR
    inside, outside = torch.zeros(2), torch.zeros(2)  # errors and images
    for fold in range(FOLDS):
        statistics = scope.statistics(wrong[:, None], folds != fold)[:, 0].masked_fill(~near, -torch.inf)
        chosen, tested = scope.holds[int(statistics.argmax())], part == fold
        for counts, where in ((inside, chosen & tested), (outside, ~chosen & tested)):
            counts += torch.stack([errors[where].sum(), where.sum()])
    rate, elsewhere = (float(counts[0] / counts[1].clamp(min=1)) for counts in (inside, outside))
    return Group(
        class_name=None if scope.class_index < 0 else class_names[scope.class_index],
        conditions=scope.conditions[rule],
        indices=scope.indices[holds],
        errors=int(errors[holds].sum()),
        rate=rate,
        elsewhere=elsewhere,
        interval=wilson_interval(int(inside[0]), max(1, int(inside[1]))),
        statistic=statistic,
    )
