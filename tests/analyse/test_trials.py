"""Experiments on errors whose causes are planted."""

import pytest
import torch
from torch import nn

import camlens
from camlens.analyse.edits import EDITS
from camlens.analyse.error_analysis import ErrorAnalysis
from camlens.analyse.evaluation import Evaluation, evaluate
from camlens.analyse.experiments.averaging import count_changes, evaluate_averaging
from camlens.analyse.experiments.covered_cells import on_grid
from camlens.analyse.experiments.trials import Trials, sample_evenly
from camlens.data.dataset import InMemoryDataset

NAMES = ("dark", "bright")
SIDE, MARK = 16, (1, 2)  # pixels; the cell of the mark


class Marked(nn.Module):
    """Says how bright the lowest row of cells is, unless there is a mark in a cell: then bright."""

    def __init__(self):
        super().__init__()
        self.cells = nn.AvgPool2d(SIDE // 4)
        self.late = nn.Identity()
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[-64.0, -20.0], [64.0, 20.0]]))
            self.fc.bias.copy_(torch.tensor([10.0, -10.0]))

    def forward(self, images):
        cells = self.cells(images.mean(dim=1, keepdim=True))  # (B, 1, 4, 4)
        mark, row = torch.zeros(4, 4), torch.zeros(4, 4)
        mark[MARK], row[3] = 1, 1
        seen = torch.cat([torch.relu(cells - 0.75) * mark * 16, cells * row * 4], dim=1)
        return self.fc(self.late(seen).mean(dim=(2, 3)))


def planted(count=80, marked=20):
    """Dark and bright pictures, some close to the boundary; the first `marked` are dark ones with the mark."""
    numbers = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    labels[:marked] = 0
    level = 0.5 + (labels * 2 - 1) * (0.02 + 0.06 * torch.rand(count, generator=numbers))
    pixels = (255 * level).round().byte().view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE).clone()
    side = SIDE // 4
    top, left = (side * place for place in MARK)
    pixels[:marked, :, top : top + side, left : left + side] = 250
    files = tuple(f"{n}.png" for n in range(count))
    data = InMemoryDataset("planted", "test", NAMES, labels, files, "16x16", pixels)
    return camlens.Classifier(Marked(), NAMES, (0.0,) * 3, (1.0,) * 3, (SIDE, SIDE), layers=["late"]), data


@pytest.fixture(scope="module")
def analysis() -> ErrorAnalysis:
    model, data = planted()
    return camlens.analyse(model, data)


def test_an_error_that_depends_on_a_cell_is_described_so(analysis):
    assert sorted(analysis.indices.tolist()) == list(range(20)), "the marked ones"
    covered = analysis.experiments.covered_cells
    assert (covered.cells == 4 * MARK[0] + MARK[1]).all() and (covered.ranks == 1).all()
    assert all(right.all() for right in covered.corrected.values()) and list(covered.corrected) == [
        "mean",
        "blur",
        "noisy imputation",
    ]
    assert covered.depends.all() and (covered.covers == 1).all()
    assert (covered.first, covered.mean) == (1, 1 / 16) and covered.difference == pytest.approx(15 / 16)
    assert covered.interval == pytest.approx((15 / 16, 15 / 16))
    assert all("depends on this place" in words for words in analysis.words.tags)


def test_an_edit_is_a_reason_if_it_corrects_errors_more_often_than_it_changes_matched_correct_images(analysis):
    trials = analysis.experiments.trials
    rates = {rate.name: rate for rate in trials.rates}
    assert list(rates) == list(EDITS)
    mirrored = rates["mirrored"]
    assert (mirrored.errors, mirrored.matched, mirrored.is_reason) == (1, 0, True), "the mark is elsewhere then"
    assert mirrored.interval[0] > 0.7 and mirrored.p_value == pytest.approx(31 * 2**-19, rel=1), "times 31 at most"
    assert not rates["made grey"].is_reason and rates["made grey"].errors == 0
    for words, sentence in zip(analysis.words.tags, analysis.words.sentences, strict=True):
        assert words[0] == "changes when mirrored" and "near the boundary" in words
        assert sentence.startswith(
            "It becomes dark when mirrored, which corrects 100 % of the errors and changes 0 % of equally"
        )
    assert "mirrored (100 against 0 %)" in analysis.findings[2]


def test_correct_images_are_matched_on_the_probability_margin(analysis):
    trials, evaluation = analysis.experiments.trials, analysis.evaluation
    assert len(set(trials.partners.tolist())) == 20 and not evaluation.wrong[trials.partners].any()
    first, second = evaluation.probabilities.topk(2, dim=1).values.unbind(dim=1)
    margins = first - second
    distances = (margins[analysis.indices] - margins[trials.partners]).abs()
    assert trials.gap == pytest.approx(float(distances.mean()), abs=1e-6)


def test_the_trials_are_what_the_network_says_of_the_edited_pictures(analysis):
    model, data = planted()
    trials = analysis.experiments.trials
    model.eval()
    for number, (name, edit) in enumerate(EDITS.items()):
        with torch.no_grad():
            logits = model(model.prepare(edit(data.images(analysis.indices))))
            others = model(model.prepare(edit(data.images(trials.partners)))).argmax(dim=1)
        assert torch.equal(trials.corrected[:, number], logits.argmax(dim=1) == 0), name
        assert torch.equal(trials.changed[:, number], logits.argmax(dim=1) != 1), name
        assert torch.equal(trials.partner_changed[:, number], others != data.labels[trials.partners]), "two classes"
        torch.testing.assert_close(trials.label_probability[:, number], logits.softmax(dim=1)[:, 0])
        torch.testing.assert_close(trials.logit_margins[:, number], logits[:, 1] - logits[:, 0])


def test_an_edit_of_your_own_is_tried_beside_the_others():
    model, data = planted()
    analysis = camlens.analyse(model, data, edits={"turned over": lambda images: images.flip(2)}, max_tried=7)
    trials = analysis.experiments.trials
    assert trials.names[-1] == "turned over" and trials.corrected.shape == (7, 32) and len(trials.partners) == 7
    assert {rate.name: rate.is_reason for rate in trials.rates}["turned over"] is False, "7 pairs tell too little"
    expected = "Small edits were tried on 7 of the 20 errors, not on this one."
    assert analysis.words.sentences.count(expected) == 13 and analysis.words.tags.count([]) == 13


def test_errors_are_sampled_evenly_over_the_matrix():
    numbers = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (2000,), generator=numbers)
    logits = torch.randn(2000, 4, generator=numbers) + torch.tensor([2.0, 1.0, 0.0, 0.0])
    files = tuple(map(str, range(2000)))
    data = InMemoryDataset("any", "test", tuple("abcd"), labels, files, "1x1", torch.zeros(2000, 3, 1, 1).byte())
    evaluation = Evaluation(planted()[0], data, logits)
    errors = evaluation.errors()
    chosen = sample_evenly(evaluation, errors, 300)
    assert len(set(chosen.tolist())) == 300 and chosen.tolist() == sorted(chosen.tolist())

    def cells(indices):
        return torch.bincount(4 * labels[indices] + evaluation.predictions[indices], minlength=16)

    expected = cells(errors) * 300 / len(errors)
    assert (cells(errors[chosen]) - expected).abs().max() <= 1, "as many of each cell as its share, but for rounding"
    assert sample_evenly(evaluation, errors[:10], 300).tolist() == list(range(10))


def test_with_fewer_correct_images_than_errors_some_errors_have_no_partner():
    model, data = planted(count=24)
    analysis = camlens.analyse(model, data)
    trials = analysis.experiments.trials
    assert int((trials.partners >= 0).sum()) == 4 and len(trials.tried) == 20
    assert not trials.partner_changed[trials.partners < 0].any() and len(trials.of_pairs()[0]) == 4
    alone = camlens.analyse(model, data.subset(torch.arange(20)))
    assert alone.experiments.trials.rates == [] and (alone.experiments.trials.partners == -1).all()
    assert "changes when mirrored" not in alone.words.tags[0], "nothing to compare with"


def test_maps_on_the_grid_are_means_over_its_cells():
    maps = torch.randn(2, 7, 3, dtype=torch.float64)
    fine = maps.repeat_interleave(12, 1).repeat_interleave(12, 2)  # 84 by 36
    expected = torch.stack([part.mean(dim=(1, 2)) for rows in fine.split(21, 1) for part in rows.split(9, 2)], dim=1)
    torch.testing.assert_close(on_grid(maps).flatten(1), expected)


def test_averaging_is_chosen_on_one_half_and_measured_on_the_other(analysis):
    found, evaluation, model = analysis.experiments.averaging, analysis.evaluation, planted()[0]
    data = evaluation.data
    probabilities = evaluation.probabilities
    first, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
    unsure = [n for n in range(80) if float(first[n] - second[n]) < 0.9]

    def right_with(names, index):
        images = data.images(torch.tensor([index]))
        copies = [evaluate(model, data.with_labels(data.labels)).probabilities[index]]
        with torch.no_grad():
            copies += [model(model.prepare(EDITS[name](images)))[0].softmax(dim=0) for name in names]
        return int(torch.stack(copies).mean(dim=0).argmax()) == int(data.labels[index])

    ways = {
        "the mirrored copy": ["mirrored"],
        "the mirrored copy and four moved ones": ["mirrored", "moved left", "moved right", "moved up", "moved down"],
    }

    def changes(way, remainder):
        numbers = [n for n in unsure if n % 2 == remainder]
        then = {n: right_with(ways[way], n) for n in numbers}
        wrong = evaluation.wrong.tolist()
        return sum(then[n] and wrong[n] for n in numbers), sum(not then[n] and not wrong[n] for n in numbers)

    nets = {way: changes(way, 0)[0] - changes(way, 0)[1] for way in ways}
    assert found.way == max(nets, key=nets.get)
    assert (found.corrected, found.broken) == changes(found.way, 1)
    assert found.averaged == sum(n % 2 for n in unsure) and found.net == found.corrected - found.broken


def test_what_was_tried_already_is_not_tried_again(analysis, monkeypatch):
    evaluation, trials = analysis.evaluation, analysis.experiments.trials
    everything = Trials(**{**vars(trials), "images": torch.arange(80), "copies": torch.zeros(80, 5, 2)})
    monkeypatch.setattr(
        "camlens.analyse.experiments.averaging.predict_edited", lambda *_: pytest.fail("the network is asked")
    )
    evaluate_averaging(evaluation, everything)


def test_averaging_by_hand():
    _, data = planted(count=22)
    labels = torch.tensor([0, 1, 1])
    data = data.subset(torch.arange(3)).with_labels(labels)
    logits = torch.tensor([[0.4, 0.6], [0.9, 0.1], [0.45, 0.55]]).log()
    copies = torch.tensor([[[0.8, 0.2]], [[0.2, 0.8]], [[0.6, 0.4]]])
    found = count_changes(Evaluation(planted()[0], data, logits), torch.arange(3), copies)
    assert found == (1, 1), "the first becomes right, the third wrong, the second stays wrong"
