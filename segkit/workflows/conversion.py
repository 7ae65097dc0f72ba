"""Bringing other people's layouts into that of a dataset."""

from __future__ import annotations

from pathlib import Path

from segkit import options as opt
from segkit.dataset.conversion.conversion import Conversion, write_conversion
from segkit.errors import UsageError, UserError
from segkit.files import read_json
from segkit.json_text import shown
from segkit.runtime import log
from segkit.workflows.common import Outcome


def convert(options: opt.Convert) -> Outcome[Path]:
    """Convert a source; see :class:`segkit.options.Convert`."""
    source = options.source
    if not source.exists():
        raise UserError("no such file or folder", where=source, fix="check the path")
    kind = _tell(options) if options.kind == "auto" else options.kind
    log.info("%s is taken for: %s", source, kind)
    conversion = _read(kind, options)
    write_conversion(conversion, source, options.output, jobs=options.jobs)
    lines = [*conversion.notes, f"{_written(conversion)} written to {options.output}"]
    if conversion.content is not None:
        if not conversion.files:
            lines[-1] += "; the files it lists stay where they are"
        lines.append(f"now: segkit validate {options.output}")
    return Outcome(text="\n".join(lines), result=options.output)


def _written(conversion: Conversion) -> str:
    files = [f"{len(conversion.files)} files"] if conversion.files else []
    return " and ".join([*files, *["dataset.json"] * (conversion.content is not None)])


def _tell(options: opt.Convert) -> str:
    """Tell what a source is from what is in it."""
    source = options.source
    if source.is_file():
        return _tell_file(source)
    from segkit.dataset.conversion.decathlon import is_decathlon

    if is_decathlon(source):
        return "decathlon"
    file = source / "dataset.json"
    content = read_json(file) if file.is_file() else {}
    if not isinstance(content, dict):
        what, fix = f"expected keys and values, got {shown(content)}", "say with --from what it is"
        raise UserError(what, where=file, fix=f"correct the file, or {fix}")
    if "channel_names" in content:
        what, fix = "this is a dataset already", "use it as it is"
        raise UserError(what, where=source, fix=fix)
    if options.masks is not None or _holds_images(source):
        return "folders"
    return "dicom"


def _tell_file(source: Path) -> str:
    if source.suffix.lower() != ".json":
        return "manifest"
    from segkit.dataset.conversion.coco import is_coco

    return "coco" if is_coco(source) else "manifest"


def _holds_images(source: Path) -> bool:
    from segkit.dataset.conversion.conversion import images_in

    return any(images_in(path) for path in (source, *source.iterdir()) if path.is_dir())


def _read(kind: str, options: opt.Convert) -> Conversion:
    """Read a source; only what a kind uses is imported."""
    _check_options(kind, options)
    source, jobs = options.source, options.jobs
    if kind in ("decathlon", "nnunet_v1"):
        from segkit.dataset.conversion.decathlon import convert_decathlon

        return convert_decathlon(source)
    if kind == "dicom":
        from segkit.dataset.conversion.dicom import convert_dicom

        return convert_dicom(source)
    if kind == "coco":
        from segkit.dataset.conversion.coco import convert_coco

        return convert_coco(source, options.images, channels=options.channels)
    labels, channels = options.labels, options.channels
    if kind == "manifest":
        from segkit.dataset.conversion.manifest import convert_manifest

        return convert_manifest(source, labels=labels, channels=channels, jobs=jobs)
    from segkit.dataset.conversion.folders import convert_folders, find_folders

    images, masks = find_folders(source, options.masks)
    images = options.images or images
    return convert_folders(images, masks, labels=labels, channels=channels, jobs=jobs)


_USED = {
    "decathlon": (),
    "nnunet_v1": (),
    "dicom": (),
    "coco": ("images", "channels"),
    "manifest": ("labels", "channels"),
    "folders": ("images", "masks", "labels", "channels"),
}
"""Options that a kind of source takes."""


def _check_options(kind: str, options: opt.Convert) -> None:
    for name in ("images", "masks", "labels", "channels"):
        if getattr(options, name) and name not in _USED[kind]:
            what = f"--{name} has no effect on a source of kind {kind}"
            raise UsageError(what, fix="leave it out, or say with --from what SOURCE is")
    needs_file = kind in ("coco", "manifest")
    if options.source.is_file() != needs_file:
        what = f"a source of kind {kind} is a {'file' if needs_file else 'folder'}"
        raise UsageError(what, where=options.source, fix="choose another with --from")
