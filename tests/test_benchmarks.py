"""Each benchmark runs, the results say of which commit they are, and the tables are made of them."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(
    path for path in BENCHMARKS.glob("*.py") if path.name not in ("common.py", "families.py", "report.py", "shim.py")
)


# These read /proc, or signal and start processes as Unix does.
LINUX = {"allocator", "explorer", "exits", "fuzz", "kill", "kill_reports", "machines", "maps", "scale", "versions"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_runs_without_data_or_other_libraries(script, tmp_path, monkeypatch, capsys):
    if script.stem in LINUX and sys.platform != "linux":
        pytest.skip(f"{script.name} measures on Linux alone")
    kinds = "benchmarks/**/*.json", "benchmarks/*.md", "docs/*.md", "src/**/*.json", "src/**/*.safetensors"
    before = {path: path.read_bytes() for kind in kinds for path in ROOT.glob(kind)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--smoke"])
    monkeypatch.syspath_prepend(BENCHMARKS)
    runpy.run_path(str(script), run_name="__main__")
    assert "a smoke test: " in capsys.readouterr().out
    assert not [path for path, content in before.items() if path.read_bytes() != content]


def commits(result):
    """The commits that a result names, at any depth."""
    if isinstance(result, dict):
        if "commit" in result:
            yield result["commit"]
        yield from (commit for part in result.values() for commit in commits(part))
    elif isinstance(result, list):
        yield from (c for part in result for c in commits(part))


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "results").glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_of_which_commit_it_is(path):
    found = list(commits(json.loads(path.read_text(encoding="utf-8"))))
    assert found
    for commit in found:
        assert re.fullmatch(r"[0-9a-f]{40}", commit), f"{path.name}: {commit}"


def test_the_tables_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import report

    assert report.results() == (report.HERE / "RESULTS.md").read_text(encoding="utf-8")
    for document in report.DOCS:
        text = document.read_text(encoding="utf-8")
        assert report.with_tables(text) == text, document
        assert "made by benchmarks/report.py" in text
