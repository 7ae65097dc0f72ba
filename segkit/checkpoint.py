"""Checkpoints: tensors and plain values, written atomically, loaded without running code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from segkit import __version__
from segkit.errors import UserError
from segkit.files import atomic_write, content_hash, file_hash

CHECKPOINT_VERSION = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts; the old file stays until it is whole."""
    header = {"format_version": CHECKPOINT_VERSION, "segkit_version": __version__}
    with atomic_write(path) as stream:
        torch.save({**header, **content}, stream)


def load_checkpoint(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``.

    Raises:
        UserError: missing, damaged, of another version, or it would need to run code.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError("no such checkpoint", where=path, fix="train first") from None
    except pickle.UnpicklingError:
        what = "this file holds more than tensors and plain values, or is damaged; not loaded"
        raise UserError(what, where=path, fix="use a checkpoint written by segkit") from None
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        what = f"the checkpoint is damaged: {str(error).partition(chr(10))[0] or 'it is empty'}"
        raise UserError(what, where=path, fix="restore the file or train again") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != CHECKPOINT_VERSION:
        what = f"checkpoint format {version} cannot be read; expected {CHECKPOINT_VERSION}"
        raise UserError(what, where=path, fix="use a checkpoint of this version of segkit")
    return content


def checkpoint_hash(path: Path) -> str:
    """Hash what a checkpoint holds (16 hex digits), without reading its tensors.

    A checkpoint is a zip archive, whose table of contents states a checksum of every entry.

    Raises:
        OSError: no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile:
        return file_hash(path)
    # The first part of an entry's name is that of the file when it was written.
    return content_hash([(e.filename.partition("/")[2], e.CRC, e.file_size) for e in entries])
