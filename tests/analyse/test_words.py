import torch

import camlens
from camlens.analyse.words import BOUNDARY, DUPLICATE, PLACE, describe_errors
from tiny import NAMES, classifier, images


def test_a_near_duplicate_is_a_reason_only_where_the_prediction_is_its_label():
    analysis = camlens.analyse(classifier(), images(40), quick=True)
    evaluation, errors = analysis.evaluation, analysis.indices[:3]
    predictions = evaluation.predictions[errors]
    third = (3 - predictions[1] - evaluation.labels[errors[1]]) % 3
    words = describe_errors(evaluation, errors, None, None, torch.tensor([predictions[0], third, -1]))
    assert words.tags == [[DUPLICATE], [], []]
    assert words.sentences[0] == (f"A near-duplicate among the training images has the label {NAMES[predictions[0]]}.")
    assert words.sentences[1:] == ["No small edits were tried."] * 2


def test_words_follow_from_what_was_tried():
    analysis = camlens.analyse(classifier(), images(80))
    trials, covered_cells = analysis.experiments.trials, analysis.experiments.covered_cells
    assert analysis.words.lists == analysis.words.tags and analysis.experiments.places is covered_cells, "earlier names"
    reasons = {rate.name for rate in trials.rates if rate.is_reason}
    for row, (words, sentence) in enumerate(zip(analysis.words.tags, analysis.words.sentences, strict=True)):
        changed, corrected = int(trials.changed[row].sum()), trials.corrected[row].tolist()
        correcting = [
            name for name, corrects in zip(trials.names, corrected, strict=True) if corrects and name in reasons
        ]
        expected = [f"changes when {name}" for name in correcting] + [PLACE] * bool(covered_cells.depends[row])
        assert words == [*expected, BOUNDARY if changed else "unchanged by all 31 edits"]
        if words == [BOUNDARY]:
            assert ("most small edits change the prediction" in sentence) == (changed > 15)
