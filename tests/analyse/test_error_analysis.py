import subprocess
import sys

import pytest
import torch
from torch import nn

import camlens
from camlens.analyse import projection
from camlens.analyse.evaluation import evaluate
from camlens.analyse.explanations import explain_errors, explain_predictions
from camlens.analyse.labels.opinion import WITHOUT_OPINION, label_doubt
from camlens.analyse.projection import project
from camlens.errors import DataError
from camlens.show import draw
from camlens.show.report.listing import list_errors
from camlens.show.report.render import render_facts
from tiny import NAMES, Net, classifier, images, pixels_of


class Curved(Net):
    """The logits are no linear function of the last layer."""

    def forward(self, images):
        return self.fc(self.late(self.early(images)).mean(dim=(2, 3)).tanh())


@pytest.fixture(scope="module")
def analysis():
    return camlens.analyse(classifier(), images(80), images(60, "train"))


def test_the_package_is_called_and_imported_from():
    """One name for both, in whichever order; neither loads anything heavy before it is used."""
    code = """if True:
        import sys
        import camlens
        assert callable(camlens.analyse) and "torch" not in sys.modules and "numpy" not in sys.modules
        import camlens.analyse.evaluation
        assert callable(camlens.analyse) and callable(camlens.analyse.evaluation.evaluate)
        from camlens import ErrorAnalysis, analyse
        from camlens.analyse.error_analysis import analyse as function
        assert analyse is camlens.analyse and function is not analyse
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_everything_is_of_the_same_errors(analysis):
    model, data = classifier(), images(80)
    evaluation = evaluate(model, data)
    assert isinstance(analysis, camlens.ErrorAnalysis) and len(analysis.explanations) == 1
    assert torch.equal(analysis.indices, evaluation.errors("confidence"))
    assert torch.equal(analysis.evaluation.logits, evaluation.logits)
    count, training = len(analysis.indices), analysis.training
    lists = (training.neighbours, training.influence.towards, training.influence.away)
    assert all(ranked.indices.shape == ranked.scores.shape == (count, 6) for ranked in lists)
    assert len(training.duplicates) == len(analysis.words.tags) == len(analysis.words.sentences) == count
    assert torch.equal(analysis.experiments.trials.tried, torch.arange(count))
    assert analysis.projection.points.shape == (80, 2) and 0 < analysis.projection.explained_variance <= 1
    assert len(analysis.findings) == 6 and "31 small edits" in analysis.findings[2]


def test_of_many_errors_the_most_telling_are_listed(analysis):
    found = camlens.analyse(classifier(), images(80), images(60, "train"), max_tried=4, max_listed=9)
    whole, evaluation = analysis.indices.tolist(), found.evaluation
    uncut = camlens.analyse(classifier(), images(80), max_tried=4).experiments.trials.tried
    tried, chosen = [whole[place] for place in uncut.tolist()], []
    assert found.indices[found.experiments.trials.tried].tolist() == tried
    for turn in range(len(whole)):  # slowly: one more of each cell, by falling confidence
        seen = {}
        for index in whole:
            cell = int(evaluation.labels[index]), int(evaluation.predictions[index])
            seen[cell] = seen.get(cell, -1) + 1
            if seen[cell] == turn and index not in tried and len(tried) + len(chosen) < 9:
                chosen.append(index)
    assert set(found.indices.tolist()) == {*tried, *chosen} and len(found.indices) == 9 < len(whole)
    assert [index for index in whole if index in {*tried, *chosen}] == found.indices.tolist()
    assert len(found.words.tags) == len(found.training.duplicates) == 9
    assert any(text.startswith(f"9 of the {len(whole)} errors are listed") for text in found.findings)
    facts, listing = render_facts(found), list_errors(found)
    assert sum(errors for *_, errors in facts["models"][0]["wrong"]) == listing["error_count"] == len(whole)
    assert len(listing["errors"]) == len(facts["images"]["index"]) == 9


def test_a_temperature_changes_no_edit_and_no_training_image(analysis):
    """Both hold of the network as it was trained."""
    model = classifier()
    model.temperature = 0.4
    found = camlens.analyse(model, images(80), images(60, "train"))
    place = [found.indices.tolist().index(index) for index in analysis.indices.tolist()]
    corrected = analysis.experiments.trials.corrected
    assert torch.equal(found.experiments.trials.corrected[place], corrected) and corrected.any()
    assert torch.equal(found.training.influence.towards.indices[place], analysis.training.influence.towards.indices)
    assert not torch.allclose(found.evaluation.probabilities, analysis.evaluation.probabilities)
    assert found.fingerprints != analysis.fingerprints


def test_the_projection_is_the_same_every_time_and_leaves_the_random_state_alone():
    features = torch.randn(300, 40, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), project(features)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(project(features).points, first.points)


def test_the_projection_is_on_the_principal_components(monkeypatch):
    numbers = torch.Generator().manual_seed(0)
    spread = torch.tensor([9.0, 5.0, *[1.0] * 18])
    features = torch.randn(300, 20, generator=numbers) * spread + 3
    monkeypatch.setattr(projection, "ROWS", 64)
    found = project(features)
    centred = features - features.mean(dim=0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(found.points.abs(), (centred @ axes[:2].T).abs(), rtol=0, atol=0.02)
    assert (found.points.pow(3).mean(dim=0) > 0).all(), "the long tail points up"
    assert found.explained_variance == pytest.approx(float(sizes[:2].square().sum() / sizes.square().sum()), abs=1e-4)


def test_explanations_are_what_the_library_explains(analysis):
    (explained,), model, data = analysis.explanations, classifier(), images(80)
    inputs = model.prepare(data.images(analysis.indices))
    expected = camlens.explain(model, inputs, "hirescam", ["early", "late"], explained.classes).by_layer()
    assert list(explained.maps) == ["early", "late"]
    for layer, maps in explained.maps.items():
        torch.testing.assert_close(maps, expected[layer])
    assert torch.equal(explained.classes[:, 0], analysis.evaluation.predictions[analysis.indices])
    assert explained.is_exact
    bias = model.network.fc.bias.detach()
    torch.testing.assert_close(explained.remainder, bias[explained.classes], rtol=0, atol=1e-3)
    assert not explain_predictions(analysis.evaluation, analysis.indices[:1]).is_exact, "one image cannot show it"
    curved = evaluate(classifier(Curved()), data)
    assert not explain_predictions(curved, torch.arange(9)).is_exact
    loss = nn.functional.cross_entropy(
        analysis.evaluation.logits[analysis.indices], data.labels[analysis.indices], reduction="none"
    )
    torch.testing.assert_close(explained.losses, loss)


def test_what_there_is_without_training_images_features_or_errors():
    bare = camlens.analyse(classifier(), images(80))
    assert bare.training is None and bare.projection is not None and "confidence" in bare.findings[1]
    lacks = "No related training images are shown: "
    assert bare.findings[-1] == lacks + "none were given, in a folder train/ or as train=."
    other = camlens.analyse(classifier(Net()), images(40), images(40, "train"))
    assert other.training is None and other.projection is None
    data = images(20)
    right = camlens.analyse(
        classifier(), data.with_labels(evaluate(classifier(), data).predictions), images(9, "train")
    )
    assert len(right.indices) == 0 and right.training is None and right.explanations[0].maps == {}
    assert right.experiments is None and right.words.tags == []
    assert right.groups is None and right.shortcuts is None


def test_quickly_nothing_is_tried():
    analysis = camlens.analyse(classifier(), images(80), quick=True)
    assert analysis.experiments is None and len(analysis.findings) == 4
    assert analysis.groups is None and analysis.shortcuts is None
    assert set(analysis.words.sentences) == {"No small edits were tried."} and not any(analysis.words.tags)


class Watched(nn.Module):
    """Remembers the size of the images that it was given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.late, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)
        self.sizes = set()

    def forward(self, images):
        self.sizes.add(tuple(images.shape[2:]))
        return self.fc(self.late(images).mean(dim=(2, 3)))


def test_of_many_classes_the_most_probable_are_explained_and_those_that_must_be():
    names = [f"class {number}" for number in range(20)]
    evaluation = evaluate(classifier(names=names), images(60, names=names))
    order = evaluation.logits.argsort(dim=1, descending=True)
    for extra in (None, *range(20)):
        classes = explain_predictions(evaluation, torch.arange(60), extra_class=extra).classes
        assert classes.shape == (60, 8)
        for row in range(60):
            required = {int(evaluation.labels[row])} | ({extra} if extra is not None else set())
            chosen = classes[row].tolist()
            assert chosen[:6] == order[row, :6].tolist() and required <= set(chosen) and len(set(chosen)) == 8
            kept = [index for index in chosen if index not in required]
            assert kept == [index for index in order[row, :8].tolist() if index not in required][: len(kept)]


def test_with_a_cache_the_networks_run_once(tmp_path, monkeypatch, caplog):
    models, passes, forward = (classifier(), classifier(Net())), [], nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    first = camlens.analyse(models[0], images(80), images(60, "train"), models[1], cache=tmp_path)
    assert sum(passes) > 1000
    passes.clear()
    again = camlens.analyse(models[0], images(80), images(60, "train"), models[1], cache=tmp_path)
    assert sum(passes) == 0 and not caplog.records
    facts = [render_facts(each) | {"made": None} for each in (first, again)]
    assert facts[0] == facts[1]
    other = camlens.analyse(models[0], images(80), max_tried=4, cache=tmp_path)
    assert len(other.experiments.covered_cells.cells) == 4 and "places.pt is computed again" in caplog.text


@pytest.mark.parametrize("pairs", [False, True])
def test_the_second_model_sees_the_pictures_at_its_own_size(pairs):
    """And as they were: what the first one's smaller input loses is not lost to it."""
    data = images(30, side=32)
    second = camlens.Classifier(Watched(), NAMES, (0.5,) * 3, (0.25,) * 3, (32, 32), layers=["late"])
    given = [(image, int(label)) for image, label in zip(pixels_of(data), data.labels, strict=True)] if pairs else data
    analysis = camlens.analyse(classifier(side=16), given, second=second)
    assert second.network.sizes == {(32, 32)}
    with torch.no_grad():
        expected = second.eval()(second.prepare(pixels_of(data)))
    torch.testing.assert_close(analysis.explanations[1].evaluation.logits, expected, rtol=1e-4, atol=1e-4)
    if pairs:
        assert analysis.test.size == (16, 16), "the first one's"


def test_a_second_model_of_other_classes_is_refused():
    other = classifier(names=(NAMES[1], NAMES[0], NAMES[2]))
    with pytest.raises(DataError, match="does not have the classes of tiny in the same order"):
        camlens.analyse(classifier(), images(20), second=other)


def test_a_second_opinion_doubts_every_label(analysis):
    """Without one, nothing is doubted, and a sentence says why."""
    assert analysis.doubt is None and WITHOUT_OPINION in analysis.findings
    test, opinion = images(80), torch.full((80, 3), 1 / 3)
    found = camlens.analyse(classifier(), test, quick=True, opinion=opinion)
    assert torch.equal(found.doubt, label_doubt(found.evaluation, opinion)) and found.doubt.shape == (80,)
    assert WITHOUT_OPINION not in found.findings
    assert any("against the label of" in finding for finding in found.findings)
    rows = list_errors(found)["errors"]
    assert [row["doubt"] for row in rows] == [round(float(found.doubt[row["index"]]), 4) for row in rows]
    facts = render_facts(found)
    assert facts["doubt"] == [row["doubt"] for row in rows]
    assert render_facts(analysis)["doubt"] is None
    with pytest.raises(DataError, match=r"\(5, 3\) probabilities; expected \(80, 3\)"):
        camlens.analyse(classifier(), test, opinion=opinion[:5])


def test_errors_explained_by_contrast(analysis):
    evaluation, model, indices = analysis.evaluation, classifier(), analysis.indices[:14]
    maps = explain_errors(evaluation, indices, ["late"], "grad-cam")["late"]
    assert maps.shape[:2] == (14, 3)
    for row in (0, 13):
        index = indices[row]
        image = model.prepare(images(80).images(index[None]))
        label, prediction = int(evaluation.labels[index]), int(evaluation.predictions[index])
        for kind, (method, target, against) in enumerate(
            [
                ("grad-cam", prediction, None),
                ("grad-cam", label, None),
                ("hirescam", prediction, label),
            ]
        ):
            expected = camlens.explain(model, image, method, "late", target, against).maps[0]
            torch.testing.assert_close(maps[row, kind], expected, rtol=1e-4, atol=1e-4)


def test_figures_of_errors_say_how_sure_the_network_was(analysis, tmp_path, monkeypatch):
    seen, drawn = [], draw.pictures.misclassified
    monkeypatch.setattr(draw.pictures, "misclassified", lambda *given: seen.extend(given[2]) or drawn(*given))
    indices = analysis.indices[:3]
    draw.gallery(analysis.evaluation, indices, "", tmp_path, ["late"])
    expected = analysis.evaluation.confidences[indices].tolist()
    assert [case.prediction_probability for case in seen] == pytest.approx(expected)


def test_columns_of_the_users_take_part_in_groups(tmp_path):
    data = images(400, "test")
    model = classifier()
    wrong = evaluate(model, data).wrong.tolist()
    rows = "".join(f"{index},{'A' if bad else 'B'}\n" for index, bad in enumerate(wrong))
    (tmp_path / "columns.csv").write_text("index,camera\n" + rows, encoding="utf-8")
    groups = camlens.analyse(model, data, columns=tmp_path / "columns.csv").groups
    assert groups.found[0].sentence.startswith("camera A images")
    (tmp_path / "columns.csv").write_text("index,camera\n1000,A\n", encoding="utf-8")
    with pytest.raises(DataError, match="no image of noise, test, has the index '1000'"):
        camlens.analyse(model, data, columns=tmp_path / "columns.csv")
