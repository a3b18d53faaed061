"""Kills evaluate, report and labels repeatedly: python benchmarks/kill_reports.py [--kills 30]

Each command is killed at random times, alternately by SIGKILL and SIGTERM, and started again until it finishes. Fails
if a file at the end differs in any byte from that of an undisturbed command.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import arguments, commit, machine, read, tiny_pictures, tiny_run, write

COMMANDS = ["report", "evaluate", "labels"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["camlens.commands.app", "camlens.show.report", "camlens.show.labels"])


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of each file in a folder and below."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def command(words: list[str], said: str) -> None:
    """Run a command in this process, which is one of its own."""
    from camlens.commands.app import main as camlens

    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    multiprocessing.set_start_method("fork", force=True)  # for the workers that decode pictures: as in any process
    os.environ["CAMLENS_MEMORY"] = "0"  # pictures are decoded as they are needed
    sys.argv = ["camlens", *words]
    camlens()


class Command:
    """A command in a process of its own, forked from one that has imported torch: starting it takes no time."""

    def __init__(self, words: list[str], out: Path) -> None:
        self.said = out.with_suffix(".txt")
        self.process = CONTEXT.Process(target=command, args=([*words, "--out", str(out)], str(self.said)))
        self.process.start()

    def end(self) -> tuple[int | None, bool]:
        """Wait for its end: the exit code, and whether it found predictions of an earlier one."""
        self.process.join()
        errors = self.said.read_text(encoding="utf-8")
        if self.process.exitcode not in (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
            raise SystemExit(f"exit code {self.process.exitcode}: {errors}")
        return self.process.exitcode, "were predicted before" in errors


def killed(words: list[str], folder: Path, kills: int) -> dict[str, Any]:
    """Kill a command so many times, and compare what it writes whenever it comes to an end."""
    dice, whole, out = random.Random(0), folder / "undisturbed", folder / "killed"
    began = time.monotonic()
    Command(words, whole).end()
    lasts, expected = time.monotonic() - began, contents(whole)
    counts = {"kills": 0, "by_sigterm": 0, "found_predictions": 0, "ends": 0}
    while counts["kills"] < kills or out.exists():
        running = Command(words, out)
        if counts["kills"] < kills:
            time.sleep(dice.uniform(0, lasts))
            number = signal.SIGTERM if counts["kills"] % 2 else signal.SIGKILL
            if running.process.is_alive():
                os.kill(running.process.pid or 0, number)
        code, found = running.end()
        counts["found_predictions"] += found
        if code:
            counts["kills"] += 1
            counts["by_sigterm"] += code != -signal.SIGKILL
        else:
            counts["ends"] += 1
            different = {name for name, _ in contents(out).items() ^ expected.items()}
            if different:
                raise SystemExit(f"{words[0]}, killed and resumed, wrote other bytes: {', '.join(sorted(different))}")
            shutil.rmtree(out)
        print(words[0], counts, flush=True)
    return counts | {"files": len(expected), "seconds": round(lasts, 1)}


def main() -> None:
    """Measure and write results/kill_reports.json."""
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=COMMANDS, help="keep the results of the others")
    options = parser.parse_args()
    if options.smoke:
        print("left out: all kills but one of one command")
        options.kills, options.only = 1, ["evaluate"]
    result: dict[str, Any] = read("kill_reports")
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as elsewhere:
        folder = Path(work)
        pictures = tiny_pictures(folder / "pictures", 40 if options.smoke else 2000)
        run = tiny_run(Path(elsewhere), pictures)
        for name in options.only:
            (folder / name).mkdir()
            found = killed([name, str(run), "--data", str(pictures), "--device", "cpu"], folder / name, options.kills)
            result[name] = found | {"machine": machine(), "commit": commit()}
    write("kill_reports", result, options.smoke)


if __name__ == "__main__":
    main()
