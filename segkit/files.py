"""Files that are whole or absent: atomic writes, strict JSON, content hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from segkit import __version__
from segkit.errors import UserError


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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


def read_json(path: Path) -> Any:
    """Read strict JSON.

    Raises:
        UserError: the file is missing, unreadable, not JSON, holds NaN or says a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("file not found", where=path, fix="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the file: {error}", where=path, fix="check the file"
        ) from None
    return parse_json(text, path)


def parse_json(text: str, source: object) -> Any:
    """Parse strict JSON; see :func:`read_json` for what is refused."""
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        line = text.splitlines()[error.lineno - 1] if text.strip() else ""
        caret = " " * (error.colno - 1) + "^"
        raise UserError(
            f"not valid JSON, line {error.lineno} column {error.colno}: {error.msg}"
            f"\n{line}\n{caret}",
            where=source,
            fix="correct the JSON at the caret (commas, quotes, brackets)",
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}", where=source, fix="correct the JSON") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} occurs twice")
        result[key] = value
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


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


def read_artifact(path: Path, *, version: int) -> dict[str, Any]:
    """Read a JSON artefact; the header keys are left in.

    Raises:
        UserError: not readable, or written in another format version.
    """
    content = read_json(path)
    found = content.get("format_version") if isinstance(content, dict) else None
    if found != version:
        raise UserError(
            f"format version {found} cannot be read; this segkit ({__version__}) reads {version}",
            where=path,
            fix="make the file again with this version of segkit",
        )
    if not isinstance(content.get("made_from"), str):
        raise UserError("the key made_from is missing", where=path, fix="make the file again")
    return content
