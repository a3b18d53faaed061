"""What is seen of long work: nothing at first, then a bar, or plain lines."""

import io
import re
import threading
import time

import pytest
from rich.console import Console

from camlens import progress
from camlens.progress import Work, duration, track


@pytest.fixture
def quick(monkeypatch):
    """Two seconds are a twentieth here."""
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    monkeypatch.setattr(progress, "EVERY", 0.0)


def test_short_work_shows_nothing(capsys):
    assert list(track(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""


def test_plain_lines_say_how_far_it_is_and_what_is_left(quick, capsys):
    for _ in track(range(4), "counting"):
        time.sleep(0.1)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "counting …", "the first step is still on its way"
    assert [re.fullmatch(r"counting: (\d+) %, \d+ s left", line)[1] for line in lines[1:]] == ["25", "50", "75", "100"]


def test_lines_come_seldom(quick, capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 1000.0)
    for _ in track(range(20), "counting"):
        time.sleep(0.01)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "left" in lines[0]


def test_one_long_step_is_shown_while_it_goes_on(quick, capsys):
    with Work("thinking"):
        time.sleep(0.2)
        assert capsys.readouterr().err == "thinking …\n"


def test_the_time_left_counts_the_steps_of_this_call(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Work("training", total=100, done=90) as work:
        now[0] = 60.0
        work.step(2, note="epoch 3")
        assert work.in_words() == "training: 92 %, epoch 3, 4.0 min left"


def test_a_bar_in_a_terminal(quick, monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, force_interactive=True, width=100)
    monkeypatch.setattr(progress, "console", terminal)
    with Work("counting", 2) as work:
        time.sleep(0.2)
        work.step(note="fast")
        work.say("a line")
        time.sleep(0.3)
    assert "counting" in screen.getvalue() and " 50%" in screen.getvalue() and "a line" in screen.getvalue()


def test_lines_in_a_terminal_that_cannot_draw_a_bar(quick, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(progress, "console", Console(file=screen, force_terminal=True, width=100))
    with Work("thinking"):
        time.sleep(0.2)
    assert screen.getvalue() == "thinking …\n"


def test_brackets_in_a_name_are_no_markup(quick, monkeypatch):
    screen = io.StringIO()
    settings = {"force_terminal": True, "force_interactive": True, "width": 100, "markup": False, "emoji": False}
    monkeypatch.setattr(progress, "console", Console(file=screen, **settings))
    with Work("reading [red]:cat:", 2):
        time.sleep(0.2)
    assert "reading [red]:cat:" in screen.getvalue()


def test_work_within_work_shows_nothing(quick, capsys):
    for _ in track(range(2), "outer"):
        for _ in track(range(2), "inner"):
            time.sleep(0.1)
    assert "outer" in (said := capsys.readouterr().err) and "inner" not in said
    for _ in track(range(2), "afterwards"):
        time.sleep(0.1)
    assert "afterwards" in capsys.readouterr().err


def test_nothing_is_left_behind_after_an_error(quick, capsys):
    with pytest.raises(ValueError), Work("failing", 3):
        raise ValueError
    for _ in track(range(2), "afterwards"):
        time.sleep(0.1)
    assert "afterwards" in capsys.readouterr().err
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_other_processes_show_nothing(quick, capsys):
    for _ in track(range(2), "counting", shown=False):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_durations():
    assert [duration(s) for s in (0.2, 40, 99, 100, 3600)] == ["0 s", "40 s", "99 s", "1.7 min", "60.0 min"]
