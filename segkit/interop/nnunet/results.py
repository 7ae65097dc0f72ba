"""Where nnU-Net keeps a trained model: the folder of a trainer, in the folder of a data set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from segkit.errors import UserError
from segkit.interop.nnunet.postprocessing import FILE as POSTPROCESSING
from segkit.interop.nnunet.postprocessing import find_postprocessing

CHECKPOINTS = {"checkpoint_final.pth": "final", "checkpoint_best.pth": "best"}
"""nnU-Net's checkpoints -> what they are called here."""
_PARTS = ("plans.json", "dataset.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a user says of the model they mean; None takes the only one there is."""

    configuration: str | None = None
    trainer: str | None = None
    plans: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedFolder:
    """``TRAINER__PLANS__CONFIGURATION``: plans.json, dataset.json and folds."""

    path: Path
    name: str

    @property
    def checkpoints(self) -> dict[str, Path]:
        """``fold/name`` here (``0/final``) -> nnU-Net's file; folds and names sorted."""
        files = sorted(self.path.glob("fold_*/checkpoint_*.pth"))
        return {
            f"{file.parent.name.removeprefix('fold_')}/{CHECKPOINTS[file.name]}": file
            for file in files
            if file.name in CHECKPOINTS and re.fullmatch(r"fold_(\d+|all)", file.parent.name)
        }

    def sibling(self, configuration: str) -> TrainedFolder | None:
        """Return the same trainer's model of another configuration; None where there is none."""
        trainer, *_ = parts = self.name.split("__")
        if len(parts) != 3:
            return None
        name = f"{trainer}__{parts[1]}__{configuration}"
        found = TrainedFolder(path=self.path.parent / name, name=name)
        return found if _is_trained(found) else None

    def files(self) -> list[Path]:
        """Everything an import reads."""
        rules = find_postprocessing(self.path)
        parts = [self.path / part for part in _PARTS]
        return [*parts, *self.checkpoints.values(), *([] if rules is None else [rules])]


def find_trained(folder: Path, choice: Choice, named: Path | None = None) -> TrainedFolder:
    """Find the one trained model in a folder.

    Args:
        folder: Of a trainer, of a data set's results, or of all results.
        choice: Which one where there are several.
        named: What the user calls the folder, where it was unpacked from a zip.

    Raises:
        UserError: there is none, or there are several: they are listed.
    """
    named = named or folder
    if not folder.is_dir():
        raise UserError("no such folder", where=named, fix="check the path")
    found = _trained_in(folder)
    if not found:
        raise UserError(
            "no trained model of nnU-Net in there (plans.json, dataset.json, fold_N/"
            "checkpoint_final.pth)",
            where=named,
            fix=_hint(folder),
        )
    chosen = [each for each in found if _is_meant(each, choice)]
    if len(chosen) == 1:
        return chosen[0]
    names = "\n  ".join(str(each.path.relative_to(folder)) for each in (chosen or found))
    what = f"{len(chosen)} of {len(found)} models are meant" if chosen else "none is meant"
    fix = "give one of these folders, or choose with -c CONFIG, --trainer and --plans"
    raise UserError(
        f"several models of nnU-Net are in there, {what}:\n  {names}", where=named, fix=fix
    )


def is_needed(name: str) -> bool:
    """Whether an import reads a file of a zip, by its name in there."""
    return PurePosixPath(name).name in (*_PARTS, *CHECKPOINTS, POSTPROCESSING)


def is_results(folder: Path) -> bool:
    """Whether a folder holds a trained model of nnU-Net."""
    return folder.is_dir() and bool(_trained_in(folder))


def _trained_in(folder: Path) -> list[TrainedFolder]:
    """List the models in a folder itself, else one level below, else two or three."""
    for pattern in (".", "*", "*/*", "*/*/*"):
        candidates = [folder] if pattern == "." else sorted(folder.glob(pattern))
        found = [TrainedFolder(path=path, name=path.resolve().name) for path in candidates]
        if found := [each for each in found if _is_trained(each)]:
            return found
    return []


def _is_trained(folder: TrainedFolder) -> bool:
    return all((folder.path / part).is_file() for part in _PARTS) and bool(folder.checkpoints)


def _is_meant(folder: TrainedFolder, choice: Choice) -> bool:
    parts = folder.name.split("__")
    if len(parts) != 3:  # a renamed folder can only be meant by itself
        return choice == Choice()
    wanted = (choice.trainer, choice.plans, choice.configuration)
    return all(want in (None, have) for want, have in zip(wanted, parts, strict=True))


def _hint(folder: Path) -> str:
    if folder.name.startswith("fold_") and _is_trained(TrainedFolder(path=folder.parent, name="")):
        return f"give {folder.parent}"
    partly = sorted({path.parent for path in _near(folder, "plans.json")})
    if partly:
        return f"{partly[0]} has no finished fold; only checkpoint_final.pth and _best are read"
    return "give the folder TRAINER__PLANS__CONFIGURATION that nnU-Net trained into"


def _near(folder: Path, name: str) -> Iterator[Path]:
    for pattern in (name, f"*/{name}", f"*/*/{name}"):
        yield from folder.glob(pattern)
