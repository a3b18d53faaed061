"""Writing files so that a crash never leaves half of one."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from camlens.errors import CamlensError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over `path`.

    If the body fails, the old file stays as it was and the temporary one is removed.

    Raises:
        CamlensError: The operating system refused (no space, no permission); the message names `path`.
    """
    temporary = path.with_name(f".{path.stem}-{uuid4().hex}{path.suffix}")
    try:
        temporary.touch()
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        if os.name == "posix":  # the new name, too, survives a power cut
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        raise CamlensError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def leftovers(path: Path) -> list[Path]:
    """The temporary files for `path` that killed processes left behind."""
    return list(path.parent.glob(f".{path.stem}-*{path.suffix}"))


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, replacing `path` in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, replacing `path` in one step."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def out_folder(path: Path) -> Path:
    """Create the folder `path` and check that files can be written in it, before any work is done.

    Raises:
        CamlensError: `path` is a file, or nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except FileExistsError as error:
        raise CamlensError(f"--out {path} is a file; give a folder") from error
    except OSError as error:
        raise CamlensError(f"cannot write in --out {path}: {error.strerror}; give another folder") from error
    return path
