"""All cases of a dataset into the store: only what is missing or stale, in parallel."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from segkit.dataset.cases import Case, case_identity, largest_case
from segkit.dataset.description import DatasetDescription, command
from segkit.dataset.image_io import read_image
from segkit.dataset.label_files import read_annotation
from segkit.errors import UserError
from segkit.files import content_hash
from segkit.parallel import choose_jobs, map_cases
from segkit.planning.plan import Plan
from segkit.preprocessing.pipeline import preprocess_case
from segkit.preprocessing.store import SUFFIXES, PreprocessedStore, Source
from segkit.structs import to_mapping

_BYTES_PER_VOXEL = 40
"""Peak memory of a worker for each voxel and channel, measured on CT."""
_BYTES_PER_LABEL = 4
"""The same for each voxel and structure, measured on 20 of them."""
_ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is the same for all cases; keys are names of configurations."""

    description: DatasetDescription
    plan: Plan
    stores: Mapping[str, PreprocessedStore]
    settings: Mapping[str, str]


def preprocess_dataset(
    description: DatasetDescription,
    cases: Sequence[Case],
    plan: Plan,
    folders: Mapping[str, Path],
    *,
    jobs: int | None = None,
) -> dict[str, int]:
    """Preprocess the cases that are missing or stale; remove what belongs to no case.

    A case is read once for all configurations that want it.

    Args:
        description: The dataset.
        cases: Its training cases.
        plan: The plan to follow.
        folders: Name of a configuration -> where its store is, or will be.
        jobs: Worker processes; None takes what CPUs and memory allow.

    Returns:
        Name of a configuration -> the number of cases that were made.

    Raises:
        UserError: naming every case that failed, after all others are done.
    """
    settings = {name: _settings_hash(description, plan, name) for name in folders}
    stores = {name: PreprocessedStore(folder) for name, folder in folders.items()}
    for store in stores.values():
        _remove_leftovers(store, [case.id for case in cases])
    stale = [
        tuple(name for name in folders if not _is_fresh(stores[name], case, settings[name]))
        for case in cases
    ]
    work = [(case, names) for case, names in zip(cases, stale, strict=True) if names]
    if work:
        task = _Task(description=description, plan=plan, stores=stores, settings=settings)
        map_cases(
            partial(_preprocess_one, task),
            work,
            label=f"preprocess {', '.join(folders)}",
            jobs=choose_jobs(jobs, items=len(work), bytes_per_job=_bytes_per_job(task, work)),
            name=lambda item: item[0].id,
        )
    return {name: sum(name in names for _, names in work) for name in folders}


def _bytes_per_job(task: _Task, work: Sequence[tuple[Case, tuple[str, ...]]]) -> int:
    shapes = [task.plan.configuration(name).median_shape for name in task.stores]
    planned = max(math.ceil(math.prod(shape)) for shape in shapes)
    voxels = max(largest_case(case for case, _ in work), planned)
    return voxels * (
        _BYTES_PER_VOXEL + _BYTES_PER_LABEL * (task.description.labels.seg_channels - 1)
    )


def open_fresh(
    folder: Path,
    description: DatasetDescription,
    cases: Sequence[Case],
    plan: Plan,
    configuration: str,
) -> PreprocessedStore:
    """Open a store that holds every training case as dataset and plan now want it.

    Raises:
        UserError: cases are missing, or were made from other files, labels or another plan.
    """
    store = PreprocessedStore(folder)
    settings = _settings_hash(description, plan, configuration)
    stale = [case.id for case in cases if not _is_fresh(store, case, settings)]
    if stale:
        names = ", ".join(stale[:3]) + (", ..." if len(stale) > 3 else "")
        raise UserError(
            f"{len(stale)} of {len(cases)} cases are not preprocessed for {configuration}, or the "
            f"plan or their files changed since: {names}",
            where=folder,
            fix="run with the same --workdir: "
            + command("preprocess", description, "-c", configuration, *_named(plan)),
        )
    return store


def _named(plan: Plan) -> tuple[str, ...]:
    return () if plan.name == "default" else ("--planner", plan.name)


def _preprocess_one(task: _Task, item: tuple[Case, tuple[str, ...]]) -> None:
    (case, names), schema, reader = item, task.description.labels, task.description.reader
    # Stamped before it is read: a file that changes meanwhile is made again next time.
    stamps, identity = _stamps(case), case_identity(case)
    volume = read_image(case.images, reader)
    labels, ignore = read_annotation(case, schema, reader).array, schema.ignore_index
    for name in names:
        made = preprocess_case(volume, labels, task.plan, name, case=case, ignore_index=ignore)
        settings = _case_settings(task.settings[name], case)
        source = Source(settings=settings, stamps=stamps, identity=identity)
        task.stores[name].save(case.id, made, schema=schema, source=source)


def _settings_hash(description: DatasetDescription, plan: Plan, configuration: str) -> str:
    labels = to_mapping(description.labels)
    return content_hash([plan.preprocessing_hash(configuration), labels, description.reader])


def _case_settings(settings: str, case: Case) -> str:
    """Add what dataset.json says of this case alone."""
    return content_hash([settings, case.unannotated])


def _is_fresh(store: PreprocessedStore, case: Case, settings: str) -> bool:
    """Whether a stored case equals what would be made now; files are hashed only if touched."""
    source = store.source(case.id)
    if source is None or source.settings != _case_settings(settings, case):
        return False
    if not all((store.folder / f"{case.id}{suffix}").is_file() for suffix in SUFFIXES):
        return False
    return source.stamps == _stamps(case) or source.identity == case_identity(case)


def _stamps(case: Case) -> tuple[tuple[str, int, int], ...]:
    found = [(path.name, path.stat()) for path in case.files()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def _remove_leftovers(store: PreprocessedStore, case_ids: Sequence[str]) -> None:
    """Delete the files of cases that are gone, and what a killed process left half-written."""
    wanted = {f"{case_id}{suffix}" for case_id in case_ids for suffix in SUFFIXES}
    for pattern in ("*.json", "*.npy"):
        for path in store.folder.glob(pattern):
            if path.name not in wanted:
                path.unlink(missing_ok=True)
    for path in store.folder.glob(".*.npy.*"):
        if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
            path.unlink(missing_ok=True)
