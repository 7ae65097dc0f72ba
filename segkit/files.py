"""Files that are whole or absent: atomic writes, strict JSON, content hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from segkit import __version__
from segkit.errors import UserError
from segkit.json_text import parse_json


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of ``path`` and rename it into place once it is complete.

    An exception (or a crash) leaves the old file, or none, and never half of the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary neighbour of ``path`` to fill, and rename it into place once it is complete.

    A folder that is there already is replaced with all that is in it. An exception leaves the old
    one, or none, and never half of the new one. A draft deleted in the meantime is given up, and
    all stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        draft.chmod(0o777 & ~_umask())
        yield draft
        if not draft.exists():
            return
        if path.exists():
            # A folder cannot be renamed onto another one that holds files.
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as aside:
                old = Path(aside) / path.name
                try:
                    os.replace(path, old)
                    os.replace(draft, path)
                except BaseException:
                    if old.exists() and not path.exists():
                        os.replace(old, path)
                    raise
        else:
            os.replace(draft, path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextlib.contextmanager
def failures_told(path: Path) -> Iterator[None]:
    """Turn a failure of the file system while ``path`` is written into a user's error.

    Raises:
        UserError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except OSError as error:
        fix = "check free space and permissions"
        raise UserError(f"cannot write the file: {error}", where=path, fix=fix) from None


def check_writable(folder: Path) -> None:
    """Refuse, before any work, a folder (or what will be one) in which nothing can be written.

    Raises:
        UserError: saying why.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with failures_told(there), tempfile.TemporaryFile(dir=there):
        pass


def _umask() -> int:
    # It can only be read by setting it, which must not happen in two threads at once.
    with _UMASK_LOCK:
        mask = os.umask(0)
        os.umask(mask)
    return mask


_UMASK_LOCK = threading.Lock()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON (no NaN, no infinity), atomically.

    Raises:
        ValueError: ``content`` holds a number that JSON cannot express.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """Read UTF-8 text; a byte order mark is left out.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("file not found", where=path, fix="check the path") from None
    except UnicodeDecodeError as error:
        what = f"not UTF-8 text (byte {error.start} is {error.object[error.start]:#x})"
        raise UserError(what, where=path, fix="save the file as UTF-8") from None
    except OSError as error:
        what = f"cannot read the file: {error.strerror}"
        raise UserError(what, where=path, fix="check the file and its permissions") from None


def read_json(path: Path) -> Any:
    """Read strict JSON.

    Raises:
        UserError: the file is missing, unreadable, not JSON, holds NaN or says a key twice.
    """
    return parse_json(read_text(path), path)


def content_hash(content: Any) -> str:
    """Hash anything JSON can hold (16 hex digits); equal content gives an equal hash."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Hash the bytes of a file (16 hex digits)."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]


HEADER_KEYS = ("format_version", "segkit_version", "made_from")
"""What every JSON artefact begins with."""


def write_artifact(path: Path, content: Mapping[str, Any], *, version: int, made_from: str) -> None:
    """Write a JSON artefact with its header: format version, segkit version, source hash."""
    header = dict(zip(HEADER_KEYS, (version, __version__, made_from), strict=True))
    write_json(path, {**header, **content})


def read_artifact(
    path: Path, *, version: int, remedy: str = "make the file again with this version of segkit"
) -> dict[str, Any]:
    """Read a JSON artefact; the header keys are left in.

    Args:
        path: The file.
        version: The format version that can be read.
        remedy: What to do about another one.

    Raises:
        UserError: not readable, or written in another format version.
    """
    content = read_json(path)
    found = content.get("format_version") if isinstance(content, dict) else None
    if found != version:
        raise UserError(
            f"format version {found} cannot be read; this segkit ({__version__}) reads {version}",
            where=path,
            fix=remedy,
        )
    if not isinstance(content.get("made_from"), str):
        raise UserError("the key made_from is missing", where=path, fix="make the file again")
    return content
