"""Response times of `camlens explore`, alone and under load: python benchmarks/explorer.py [--uploads 1000]

The command serves the shipped network on CIFAR-10. First, one client sends requests alone; then sixteen clients upload
pictures of several kinds and sizes, each as soon as its last request is answered. A response must be 200, or 503, after
which the client waits for as long as the response says and tries again. Anything else, including a broken connection,
is a failure. The server's memory is read from /proc.
"""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from common import arguments, commit, machine, spread, tiny_pictures, tiny_run, write
from PIL import Image

from camlens.data import cifar10

CLIENTS = 16


def uploads(smoke: bool) -> dict[str, bytes]:
    """Files as people have them, made of CIFAR-10's test images; of noise for the smoke test."""
    if smoke:
        pixels = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    else:
        pixels = cifar10.load("test").images(torch.arange(4)).permute(0, 2, 3, 1).numpy()

    def file(number: int, size: tuple[int, int], kind: str) -> bytes:
        target = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels[number])).resize(size).save(target, kind)
        return target.getvalue()

    return {
        "PNG 32×32": file(0, (32, 32), "PNG"),
        "JPEG 640×480": file(1, (640, 480), "JPEG"),
        "WebP 1024×768": file(2, (1024, 768), "WEBP"),
        "JPEG 4000×3000": file(3, (4000, 3000), "JPEG"),
    }


def ask(port: int, body: bytes, query: str = "") -> tuple[int | str, float]:
    """Status, or what went wrong, and seconds."""
    began = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", f"/explain{query}", body)
        response = connection.getresponse()
        response.read()
        status: int | str = response.status
    except (OSError, HTTPException) as error:
        status = f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return status, time.perf_counter() - began


def memory(process: int) -> float:
    """Megabytes in use."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def crowd(port: int, server: int, files: list[bytes], wanted: int) -> dict[str, object]:
    """Sixteen clients, until so many uploads were answered with 200."""
    lock, answers, waits, used = threading.Lock(), Counter(), [], []
    numbers = cycle(range(len(files)))

    def client() -> None:
        while True:
            with lock:
                if answers[200] + running[0] >= wanted:
                    return
                running[0] += 1
                body = files[next(numbers)]
            status, seconds = ask(port, body)
            with lock:
                running[0] -= 1
                answers[status] += 1
                if status == 200:
                    waits.append(seconds)
                    if answers[200] % max(1, wanted // 10) == 0:
                        used.append(round(memory(server)))
                elif status != 503:
                    return  # a failure; counted
            if status == 503:
                time.sleep(1)  # as Retry-After says

    running = [0]
    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "clients": CLIENTS,
        "answers": {str(status): count for status, count in answers.items()},
        "failures": sum(count for status, count in answers.items() if status not in (200, 503)),
        "seconds": round(time.perf_counter() - began, 1),
        "answer_seconds": spread(waits),
        "megabytes_after_each_tenth": used,
    }


def main() -> None:
    """Measure and write results/explorer.json."""
    parser = arguments(__doc__)
    parser.add_argument("--uploads", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="a folder with the report, to save the time to make it")
    options = parser.parse_args()
    files, repeats, wanted = uploads(options.smoke), *((1, 4) if options.smoke else (30, options.uploads))
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        command = [sys.executable, "-m", "camlens", "explore", "--port", "0", "--out", out]
        if options.smoke:
            pictures = tiny_pictures(Path(folder) / "pictures")
            command += [tiny_run(Path(folder) / "run", pictures), "--data", pictures]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        port = int(re.search(r":(\d+) ", process.stdout.readline())[1])  # type: ignore[index,union-attr]
        alone = {}
        for name, body in files.items():
            ask(port, body)
            alone[name] = spread([ask(port, body)[1] for _ in range(repeats)])
        ask(port, b"", "?image=0")
        alone["a test image"] = spread([ask(port, b"", f"?image={number}")[1] for number in range(repeats)])
        slowest = "?image=5&layer=layer1&method=grad-cam"
        slow = [ask(port, b"", slowest)[1] for _ in range(repeats)]
        alone["a test image, Grad-CAM at layer1, all classes"] = spread(slow)
        before = round(memory(process.pid))
        together = crowd(port, process.pid, list(files.values()), wanted)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        result = {
            "alone_seconds": alone,
            "crowd": {"megabytes_before": before, **together},
            "exit_code_after_sigterm": process.returncode,
            "machine": machine(),
            "commit": commit(),
        }
    write("explorer", result, options.smoke)


if __name__ == "__main__":
    main()
