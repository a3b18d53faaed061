"""Decoding untrusted pictures in a separate process with a deadline; what it runs is `camlens.data.decode`."""

import atexit
import os
import subprocess
import sys
from pathlib import Path
from threading import Lock, Timer

from PIL import Image

from camlens.data.decode import ANSWER, REQUEST
from camlens.errors import DataError

DEADLINE = 10.0  # seconds for a picture
START = 60.0  # seconds for the process to start; a busy machine is slow
SOURCE = Path(__file__).parents[2]  # where the process finds camlens too


class Decoder:
    """Decodes one picture at a time, in a process that is started for the first picture and kept for the next ones."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = Lock()
        atexit.register(self.stop)

    def decode(self, content: bytes, max_pixels: int, deadline: float = DEADLINE) -> tuple[Image.Image, int]:
        """Decode the content of a picture file as `camlens.data.decode.decode_picture` does, with a deadline.

        Args:
            content: The content of the file.
            max_pixels: The most pixels that are accepted.
            deadline: Seconds.

        Raises:
            DataError: It is not a whole picture, has more pixels, takes longer or too much memory, or breaks Pillow.
        """
        with self.lock:
            process = self.started()
            assert process.stdin is not None and process.stdout is not None
            timer = Timer(deadline, process.kill)
            timer.start()
            try:
                process.stdin.write(REQUEST.pack(len(content), max_pixels) + content)
                process.stdin.flush()
                head = process.stdout.read(ANSWER.size)
                width, height, frames, size = ANSWER.unpack(head) if len(head) == ANSWER.size else (0, 0, 0, 0)
                body = process.stdout.read(size)
            except OSError:  # it ended before it had read everything
                body, size = b"", 0
            finally:
                late = not timer.is_alive()
                timer.cancel()
            if not size or len(body) < size:
                self.stop()
                reason = f"takes longer than {deadline:g} seconds to decode" if late else "cannot be decoded"
                raise DataError(f"the picture {reason}; save it again as PNG or JPEG")
        if not frames:
            raise DataError(body.decode())
        return Image.frombytes("RGB", (width, height), body), frames

    def started(self) -> "subprocess.Popen[bytes]":
        """The process, which is started if it is not running. Raises `DataError` if it does not start."""
        if self.process is None or self.process.poll() is not None:
            self.stop()
            paths = [str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "camlens.data.decode"]
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            timer = Timer(START, self.process.kill)
            timer.start()
            assert self.process.stdout is not None
            is_ready = self.process.stdout.read(1)
            timer.cancel()
            if not is_ready:
                self.stop()
                raise DataError("the process that decodes pictures does not start")
        return self.process

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


decoder = Decoder()
