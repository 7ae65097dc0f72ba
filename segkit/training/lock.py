"""Two processes that train the same fold would write over each other: the second is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from segkit.errors import UserError
from segkit.runtime import log

LOCK_FILE = ".lock"


@contextlib.contextmanager
def trained_by_one(folder: Path) -> Iterator[None]:
    """Hold a fold's folder; it is let go with the process, however that ends.

    A folder that was made for it and stayed empty is removed again. On a file system without locks
    nothing is held.

    Raises:
        UserError: another process holds it.
    """
    from filelock import FileLock, Timeout

    path = folder / LOCK_FILE
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        fix = f"wait for it, or train another fold; if nothing trains it, delete {path}"
        raise UserError("another process trains this fold", where=folder, fix=fix) from None
    except (OSError, NotImplementedError) as error:
        log.debug("%s cannot be locked: %s", folder, error)
    try:
        yield
    finally:
        # While it is still held, that nobody takes a lock that is about to go (but for Windows,
        # which lets no open file go).
        with contextlib.suppress(OSError):
            if made and {other.name for other in folder.iterdir()} <= {LOCK_FILE}:
                path.unlink(missing_ok=True)
                for parent in made:
                    parent.rmdir()
        lock.release()
