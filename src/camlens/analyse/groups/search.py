"""Groups of images with more errors than others, by properties of the pictures and columns of the user's table.

A rule has one condition ("dark") or two ("dark, blurred") on the images of a class or on all images. All rules are
tried, so some have many errors by chance. Therefore the errors of each class are permuted 1,000 times and the search is
repeated: a group is found only if its statistic exceeds the 99th percentile of the largest ones under permutation.
Its error rate is estimated by cross-fitting: in each of five folds of the images, with the similar rule that the other
four folds select. The network's evidence and features are not used: they would only show again that the network was
unsure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camlens.analyse.groups.properties import Property
from camlens.analyse.statistics import wilson_interval
from camlens.progress import track

# Fractions of the images of a class, or of all, with the lowest or highest values: one condition for each
FRACTIONS = (0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.22, 0.35)
MIN_IMAGES = 20  # of a group
MIN_ERRORS = 20  # of the data; with fewer, no groups are searched
MAX_CATEGORIES = 12  # of a property: the most frequent ones
MAX_GROUPS = 8
SECOND_CONDITION_PENALTY = 0.5  # subtracted from the statistic, because there are many more rules with two conditions
PERMUTATIONS = 1000
PERCENTILE = 0.99  # of the largest statistics under permutation
FOLDS = 5  # of cross-fitting
MIN_OVERLAP = 0.5  # intersection over union of the images of similar rules, among which a fold selects
BATCH = 250  # permutations, or rules, whose statistics are computed at a time


@dataclass(frozen=True)
class Condition:
    """A condition on a property of an image.

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
        class_name: The label of all its images; None if they are of any class.
        conditions: One or two, which its images fulfil and no other image of the class.
        indices: Its images, (n,) int64.
        errors: Number of errors among them.
        rate: Error rate by cross-fitting; `errors` / n is usually a little larger, because the rule was selected by it.
        elsewhere: Error rate of the other images of the class, or of all other images, likewise.
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
        """The group in words: "dark images of dog: 31 % errors against 9 % (58 images)"."""
        conditions = ", ".join(condition.words for condition in self.conditions)
        of_class = "" if self.class_name is None else f" of {self.class_name}"
        rates = f"{100 * self.rate:.0f} % errors against {100 * self.elsewhere:.0f} %"
        return f"{conditions} images{of_class}: {rates} ({len(self.indices):,} images)"


@dataclass(frozen=True)
class Groups:
    """The result of a search.

    Attributes:
        found: At most `MAX_GROUPS` groups, the most certain first.
        tried: Number of rules.
        threshold: What a statistic must exceed.
        note: One sentence on the result, or why there was no search.
    """

    found: list[Group]
    tried: int
    threshold: float
    note: str


@dataclass(frozen=True)
class Scope:
    """All rules on the images of a class, or on all images.

    Attributes:
        class_index: -1 for all images.
        indices: The images, (n,) int64.
        strata: The class of each, one-hot, (n, S) float32; errors are permuted within classes.
        holds: Which images fulfil each rule, (R, n) bool.
        conditions: Of each rule.
    """

    class_index: int
    indices: Tensor
    strata: Tensor
    holds: Tensor
    conditions: list[tuple[Condition, ...]]

    def statistics(self, wrong: Tensor, counted: Tensor) -> Tensor:
        """The statistic of each rule: the signed root of the likelihood ratio of errors and correct images (G test).

        The images of the rule are compared with the others. Under the null hypothesis, the errors of each class are
        anywhere in the class.

        Args:
            wrong: Errors among all images of the data, in P permutations, (N, P) bool.
            counted: The images that count, (N,) bool.

        Returns:
            (R, P), above 0 for more errors than expected; -inf for rules with too few images.
        """
        weights = counted[self.indices].float()
        flags = wrong[self.indices].float() * weights[:, None]  # (n, P)
        of_class = self.strata * weights[:, None]  # (n, S)
        rates = (of_class.T @ flags) / of_class.sum(dim=0).clamp(min=1)[:, None]  # (S, P)
        total, errors = weights.sum(), flags.sum(dim=0)
        roots = []
        for holds in self.holds.split(BATCH):
            images = holds.float() @ of_class  # (r, S)
            inside, expected, size = holds.float() @ flags, images @ rates, images.sum(dim=1, keepdim=True)
            cells = (
                (inside, expected),
                (size - inside, size - expected),
                (errors - inside, errors - expected),
                (total - size - errors + inside, total - size - errors + expected),
            )
            terms = [torch.xlogy(count, count / by_chance.clamp(min=1e-6)) for count, by_chance in cells]
            root = (2 * torch.stack(terms).sum(dim=0).clamp(min=0)).sqrt() * (inside - expected).sign()
            roots.append(root.masked_fill(size < MIN_IMAGES, -torch.inf))
        extra = torch.tensor([len(conditions) - 1 for conditions in self.conditions])
        return torch.cat(roots) - SECOND_CONDITION_PENALTY * extra[:, None]


def find_groups(
    labels: Tensor, wrong: Tensor, properties: Sequence[Property], class_names: Sequence[str], seed: int = 0
) -> Groups:
    """Find groups of images with more errors than the others of their class, or of all classes.

    Args:
        labels: (N,) int64.
        wrong: (N,) bool, the errors.
        properties: Of these images.
        class_names: K names.
        seed: Of the permutations and folds.
    """
    errors = int(wrong.sum())
    if errors < MIN_ERRORS:
        reason = f"{errors} errors are too few to find what they have in common; at least {MIN_ERRORS} are needed"
        return Groups([], 0, torch.inf, f"No groups were searched for: {reason}.")
    scopes = list(make_scopes(labels, properties))
    tried = sum(len(scope.conditions) for scope in scopes)
    if not tried:
        reason = f"no property divides them into parts of {MIN_IMAGES} or more"
        return Groups([], 0, torch.inf, f"No groups were searched for among {len(labels):,} images: {reason}.")
    generator = torch.Generator().manual_seed(seed)
    threshold = permutation_threshold(scopes, labels, wrong, generator)
    folds = permute_within_classes(labels, torch.arange(len(labels))[:, None], 1, generator)[:, 0] % FOLDS
    remaining = torch.ones_like(wrong)  # images that are in no group yet
    groups: list[Group] = []
    while len(groups) < MAX_GROUPS:
        statistics = [scope.statistics(wrong[:, None], remaining)[:, 0] for scope in scopes]
        best = max(range(len(scopes)), key=lambda number: float(statistics[number].max()))
        if (statistic := float(statistics[best].max())) <= threshold:
            break
        group = make_group(scopes[best], int(statistics[best].argmax()), wrong, folds, class_names, statistic)
        groups.append(group)
        remaining[group.indices] = False
    note = f"{tried:,} rules were tried on {errors:,} errors among {len(labels):,} images."
    return Groups(groups, tried, threshold, note if groups else f"None was found: {note}")


def make_scopes(labels: Tensor, properties: Sequence[Property]) -> Iterator[Scope]:
    """The rules on all images, and those on each class, if there are any."""
    for class_index in (-1, *labels.unique().tolist()):
        indices = (labels == class_index).nonzero()[:, 0] if class_index >= 0 else torch.arange(len(labels))
        rules = [
            (number, condition, holds)
            for number, prop in enumerate(properties)
            for condition, holds in make_conditions(prop, prop.values[indices])
        ]
        if not rules:
            continue
        numbers, holds = torch.tensor([number for number, _, _ in rules]), torch.stack([mask for *_, mask in rules])
        shared, counts = holds.float() @ holds.float().T, holds.sum(dim=1)
        is_stricter = (shared >= MIN_IMAGES) & (shared < torch.minimum(counts[:, None], counts))  # than either one
        firsts, seconds = (is_stricter & (numbers[:, None] < numbers)).nonzero().T
        conditions: list[tuple[Condition, ...]] = [(condition,) for _, condition, _ in rules]
        conditions += [(rules[i][1], rules[j][1]) for i, j in zip(firsts.tolist(), seconds.tolist(), strict=True)]
        strata = (labels[indices, None] == labels[indices].unique()).float()
        yield Scope(class_index, indices, strata, torch.cat([holds, holds[firsts] & holds[seconds]]), conditions)


def make_conditions(prop: Property, values: Tensor) -> Iterator[tuple[Condition, Tensor]]:
    """The conditions on one property of n images.

    Args:
        prop: The property.
        values: Its values for these images, (n,).

    Yields:
        Each condition that enough images fulfil but not all, and which ones do, (n,) bool.
    """
    finite = values[~values.isnan()]
    conditions: dict[Condition, Tensor] = {}
    if prop.categories:
        counts = torch.bincount(finite.long(), minlength=len(prop.categories))
        for category in counts.argsort(descending=True, stable=True)[:MAX_CATEGORIES].tolist():
            name = prop.categories[category]
            conditions[Condition(prop.words[0].format(name), f"{prop.name} is {name}")] = values == category
    elif len(finite):
        low, high = prop.words
        for fraction in FRACTIONS:
            for words, sign, compared in ((low, 1, "most"), (high, -1, "least")):
                limit = sign * (sign * finite).quantile(fraction, interpolation="lower")
                meaning = f"{prop.name} at {compared} {float(limit):.4g}"
                conditions[Condition(words, meaning)] = sign * values <= sign * limit
    for condition, holds in conditions.items():
        if MIN_IMAGES <= int(holds.sum()) < len(values):
            yield condition, holds


def permute_within_classes(labels: Tensor, values: Tensor, times: int, generator: torch.Generator) -> Tensor:
    """Values (N, 1) permuted among the images of each class, several times: (N, times)."""
    permuted = values.repeat(1, times)
    for label in labels.unique():
        indices = (labels == label).nonzero()[:, 0]
        orders = torch.rand(len(indices), times, generator=generator).argsort(dim=0)
        permuted[indices] = values[indices, 0][orders]
    return permuted


def permutation_threshold(scopes: Sequence[Scope], labels: Tensor, wrong: Tensor, generator: torch.Generator) -> float:
    """The 99th percentile of the largest statistic if errors are permuted within classes."""
    largest, all_images = [], torch.ones_like(wrong)
    for _ in track(range(PERMUTATIONS // BATCH), "looking for what errors have in common"):
        permuted = permute_within_classes(labels, wrong[:, None], BATCH, generator)
        of_scopes = [scope.statistics(permuted, all_images).amax(dim=0) for scope in scopes]
        largest.append(torch.stack(of_scopes).amax(dim=0))
    return float(torch.cat(largest).quantile(PERCENTILE))


def make_group(
    scope: Scope, rule: int, wrong: Tensor, folds: Tensor, class_names: Sequence[str], statistic: float
) -> Group:
    """A rule as a group, its error rates by cross-fitting over `folds` (N,)."""
    holds, errors, fold_of = scope.holds[rule], wrong[scope.indices], folds[scope.indices]
    overlap = (scope.holds & holds).sum(dim=1) / (scope.holds | holds).sum(dim=1)
    is_similar = overlap >= MIN_OVERLAP
    inside, outside = torch.zeros(2), torch.zeros(2)  # number of errors and of images
    for fold in range(FOLDS):
        statistics = scope.statistics(wrong[:, None], folds != fold)[:, 0].masked_fill(~is_similar, -torch.inf)
        selected, tested = scope.holds[int(statistics.argmax())], fold_of == fold
        for counts, images in ((inside, selected & tested), (outside, ~selected & tested)):
            counts += torch.stack([errors[images].sum(), images.sum()])
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
