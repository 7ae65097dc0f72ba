"""Zip files from elsewhere, unpacked only after every name and size in them was looked at."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from segkit.errors import UserError, listing
from segkit.files import atomic_folder, failures_told

_UNTRUSTED = "do not trust this file; get the model from its source again"
_CHUNK = 1 << 20
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError,
            NotImplementedError)  # fmt: skip
"""What reading a damaged zip file raises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an archive may become; more is taken for an attack on disk or memory."""

    members: int = 200_000
    total_bytes: int = 256 << 30
    ratio: float = 50.0
    """Of unpacked to packed size. Weights hardly shrink, text to a tenth."""
    small_bytes: int = 16 << 20
    """Up to this size unpacked the ratio does not matter."""


def unpack(
    archive: Path, target: Path, wanted: Callable[[str], bool], limits: Limits | None = None
) -> None:
    """Unpack the wanted files of a zip into a folder, which appears when all of it is there.

    Nothing is written before all members are checked, the unwanted too.

    Args:
        archive: The zip file.
        target: Folder to write; one that is there is replaced.
        wanted: Whether to unpack a member, by its name.
        limits: None takes the usual ones.

    Raises:
        UserError: no zip file, damaged, encrypted, or made to do harm: names that lead out of the
            folder, links, names that occur twice, or more than the limits allow; or the disk is
            too small.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [each for each in opened.infolist() if not each.filename.endswith("/")]
            _check(archive, members, limits or Limits())
            chosen = [each for each in members if wanted(each.filename)]
            _check_space(target, chosen)
            with failures_told(target), atomic_folder(target) as draft:
                for member in chosen:
                    _extract(opened, member, draft)
    except FileNotFoundError:
        raise UserError("no such file", where=archive, fix="check the path") from None
    except _DAMAGED as error:
        what = f"the zip file is damaged, or cannot be read: {error}"
        raise UserError(what, where=archive, fix="restore it from its source") from None


def _check(archive: Path, members: Sequence[zipfile.ZipInfo], limits: Limits) -> None:
    total = sum(each.file_size for each in members)
    packed = max(1, archive.stat().st_size)
    if len(members) > limits.members:
        what = f"the zip file holds {len(members)} files, more than {limits.members}"
    elif total > limits.total_bytes:
        what = f"the zip file would unpack to {total} bytes, more than {limits.total_bytes}"
    elif total > limits.small_bytes and total / packed > limits.ratio:
        what = f"the zip file would grow {total / packed:.0f} times, to {total} bytes"
    elif found := list(_faults(members)):
        what = f"the zip file was not unpacked: {listing(found)}"
    elif others := [each.filename for each in members if each.compress_type not in _PACKED]:
        what = f"neither stored nor deflated, as zip files usually are: {listing(others)}"
        raise UserError(what, where=archive, fix="unpack it, or pack it again as an ordinary zip")
    else:
        return
    raise UserError(what, where=archive, fix=_UNTRUSTED)


def _faults(members: Sequence[zipfile.ZipInfo]) -> Iterator[str]:
    """Say what is wrong with names and kinds of the members."""
    for member in members:
        if reason := _fault(member):
            yield f"{member.filename!r} {reason}"
    # Some file systems do not tell capitals apart.
    counts = Counter(member.filename.casefold() for member in members)
    yield from (f"{name!r} occurs {count} times" for name, count in counts.items() if count > 1)
    parents = {str(parent) for name in counts for parent in PurePosixPath(name).parents}
    yield from (f"{name!r} is a file and a folder" for name in counts.keys() & parents)


def _fault(member: zipfile.ZipInfo) -> str | None:
    name = member.filename
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if not posix.parts:
        return "names no file"
    if posix.is_absolute() or windows.drive or windows.root:
        return "is an absolute path"
    if ".." in posix.parts or ".." in windows.parts:
        return "leads out of the folder"
    if "\\" in name or not name.isprintable():
        return "is no name that every system takes"
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG):
        return "is no ordinary file"
    return "is encrypted" if member.flag_bits & 1 else None


def _check_space(target: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    there = next(parent for parent in target.resolve().parents if parent.is_dir())
    needed, free = sum(each.file_size for each in members), shutil.disk_usage(there).free
    if needed > free:
        what = f"unpacking needs {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free"
        raise UserError(what, where=there, fix="make room, or choose another folder")


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    path = folder / member.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:
        stream.writelines(_content(opened, member))


def _content(opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Read a member in pieces; no more than its declared size is ever read."""
    try:
        with opened.open(member) as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except _DAMAGED as error:  # so that it is not taken for a failure to write
        raise zipfile.BadZipFile(f"{member.filename}: {error}") from None
