import json

import pytest

import camlens
from camlens.show.report.listing import EditRow, ErrorRow, Listing
from schemas import violations
from tiny import NAMES, classifier, images


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    edits = {"turned over": lambda pictures: pictures.flip(2)}
    camlens.report(classifier(), images(80), out, images(60, "train"), edits=edits)
    return json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))


def test_the_file_beside_the_page_lists_every_error(written):
    assert violations(written, Listing) == [] and written["version"] == 1
    analysis = camlens.analyse(classifier(), images(80), images(60, "train"))
    assert [error["index"] for error in written["errors"]] == analysis.indices.tolist()
    for error in written["errors"]:
        index = error["index"]
        assert set(ErrorRow.__annotations__) == set(error)
        assert error["file"] == f"test/</script>{index}, x.png"
        assert error["label"] == NAMES[analysis.evaluation.labels[index]]
        assert error["prediction"] == NAMES[analysis.evaluation.predictions[index]]
        assert error["doubt"] is None and error["tried"] and error["words"] and error["sentence"]
    assert written["groups"] == written["shortcuts"] == []


def test_it_says_which_edits_correct_which_error_the_mildest_first(written):
    analysis = camlens.analyse(classifier(), images(80))
    names = [edit["name"] for edit in written["edits"]]
    assert all(set(edit) == set(EditRow.__annotations__) for edit in written["edits"])
    assert names == [*analysis.experiments.trials.names, "turned over"]
    for error, corrected in zip(written["errors"], analysis.experiments.trials.corrected.tolist(), strict=True):
        found = [name for name in error["corrected_by"] if name != "turned over"]
        assert found == [name for name, is_corrected in zip(names, corrected, strict=False) if is_corrected]
    for edit, rate in zip(written["edits"], analysis.experiments.trials.rates, strict=False):
        assert (edit["errors"], edit["matched"]) == (rate.errors, rate.matched)
        low, high = edit["interval"]
        assert low <= edit["difference"] <= high


def test_quickly_it_has_no_experiments(tmp_path):
    camlens.report(classifier(), images(40), tmp_path / "report.html", quick=True)
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert violations(written, Listing) == []
    assert (written["edits"], written["places"], written["averaging"]) == ([], None, None)
    assert not any(error["tried"] or error["corrected_by"] or error["place"] for error in written["errors"])
