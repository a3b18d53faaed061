"""Writing files so that a crash never leaves half of one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from camlens.errors import CamlensError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over `path`.

    If the body fails, the old file stays as it was and the temporary one is removed.
    An operating-system error (no space, no permission) becomes a `CamlensError` that names the file.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise CamlensError(f"cannot write {path}: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; a result is an ordinary one
        temporary.replace(path)
        if os.name == "posix":  # the new name, too, survives a power cut
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        raise CamlensError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


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
    """Make the folder `path` and check that files can be written in it, before any work is done.

    Raises `CamlensError` where it is a file or cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileExistsError as error:
        raise CamlensError(f"--out {path} is a file; give a folder") from error
    except OSError as error:
        raise CamlensError(f"cannot write in --out {path}: {error.strerror}; give another folder") from error
    return path
