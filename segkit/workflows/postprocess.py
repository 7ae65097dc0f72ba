"""Post-processing of label maps that lie in folders: rules are applied, or found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from segkit import options as opt
from segkit.checkpoint import checkpoint_hash
from segkit.dataset.description import DatasetDescription
from segkit.dataset.label_files import (
    label_layout,
    label_path,
    read_label_map,
    write_label_map,
)
from segkit.errors import UsageError, UserError, listing
from segkit.evaluation.case import CasePair, pair_hash
from segkit.evaluation.fitting import explain_trials, fit_postprocessing
from segkit.evaluation.pairs import find_label_maps, pair_files
from segkit.evaluation.postprocessing import (
    RULES_FILE,
    Postprocessing,
    Rule,
    apply_rules,
    check_rules,
    load_postprocessing,
    save_postprocessing,
)
from segkit.files import content_hash
from segkit.inference.case import Finish
from segkit.inference.files import check_output_folder
from segkit.inference.partners import check_traits, label_meanings
from segkit.inference.record import find_records, open_record, read_record
from segkit.parallel import choose_jobs, map_cases, threads
from segkit.runtime import log
from segkit.types import Volume
from segkit.workflows.common import Outcome, read_description

BYTES_PER_JOB = 1 << 31


def postprocess(options: opt.Postprocess) -> Outcome[tuple[Path, ...] | Postprocessing]:
    """Apply or find rules; see :class:`segkit.options.Postprocess`."""
    return _fit(options) if options.fit else _apply(options)


def _fit(options: opt.Postprocess) -> Outcome[tuple[Path, ...] | Postprocessing]:
    pred, ref, dataset_json = options.predictions, options.references, options.description
    if not pred or ref is None or dataset_json is None or options.output.suffix != ".json":
        fix = "segkit postprocess --fit -p PRED -r REF -d dataset.json -o rules.json"
        raise UsageError("--fit needs predictions, references and labels", fix=fix)
    description = read_description(dataset_json)
    pairs, _ = pair_files(pred, ref, description, masks_dir=options.masks)
    folds = {pair.case: str(pair.pred.parent) for pair in pairs} if len(pred) > 1 else None
    content = fit_and_save(pairs, description, options.output, folds=folds, jobs=options.jobs)
    told = [*explain_trials(content), f"rules written to {options.output}"]
    return Outcome(text="\n".join(told), result=content)


def fit_and_save(
    pairs: Sequence[CasePair],
    description: DatasetDescription,
    path: Path,
    *,
    folds: Mapping[str, str] | None = None,
    jobs: int | None,
) -> Postprocessing:
    """Find rules and write them; see :func:`segkit.evaluation.fitting.fit_postprocessing`.

    In a model folder they are bound to the weights that lie in it.
    """
    content = fit_postprocessing(pairs, description, folds=folds, jobs=jobs)
    content = replace(content, weights=_weights_in(path.parent))
    sources = [description.hash(), [pair_hash(pair) for pair in pairs], folds]
    save_postprocessing(path, content, made_from=content_hash(sources))
    return content


@dataclass(frozen=True, kw_only=True)
class _Applying:
    """What every case is post-processed by, and where it goes."""

    rules: tuple[Rule, ...]
    description: DatasetDescription
    output: Path


def _apply(options: opt.Postprocess) -> Outcome[tuple[Path, ...] | Postprocessing]:
    if options.input is None or options.rules is None:
        fix = "segkit postprocess -i PRED -o OUT --rules rules.json (or a model folder)"
        raise UsageError("predictions and rules are needed", fix=fix)
    check_output_folder(options.output)
    if options.output.resolve() == options.input.resolve():
        fix = "choose a folder of its own with -o"
        raise UserError("the output would overwrite the input", where=options.output, fix=fix)
    path = options.rules / RULES_FILE if options.rules.is_dir() else options.rules
    content = load_postprocessing(path)
    described = options.description
    description = content.description(path) if described is None else read_description(described)
    check_rules(content.rules, description.labels, where=path)
    maps = find_label_maps(options.input, description)
    if not maps:
        fix = f"give a folder with files named CASE{description.label_ending}"
        raise UserError("no label map lies there", where=options.input, fix=fix)
    work = _Applying(rules=content.rules, description=description, output=options.output)
    jobs = choose_jobs(options.jobs, items=len(maps), bytes_per_job=BYTES_PER_JOB)
    with threads(jobs) as executor:
        cases = sorted(maps.items())
        do = partial(_apply_to_file, work=work)
        written = map_cases(
            do, cases, label="postprocess", jobs=jobs, executor=executor, name=_name
        )
    _write_record(options.input, options.output, content)
    told = [str(rule) for rule in content.rules] or ["no rule: the label maps are as they were"]
    text = "\n".join([*told, f"{len(maps)} case(s), in {options.output}"])
    return Outcome(text=text, result=tuple(written))


def _apply_to_file(case: tuple[str, Path], *, work: _Applying) -> Path:
    name, path = case
    schema, ending = work.description.labels, work.description.label_ending
    labels = read_label_map(path, schema, work.description.reader)
    layout = label_layout(path, schema, work.description.reader)
    indices = apply_rules(work.rules, labels.array, labels.geometry, schema)
    done = Volume(array=indices, geometry=labels.geometry)
    output = label_path(work.output, name, ending, layout)
    write_label_map(output, done, schema, layout, ending)
    return output


def _name(case: tuple[str, Path]) -> str:
    return case[0]


def _write_record(source: Path, output: Path, content: Postprocessing) -> None:
    """Carry over who predicted, where that is known; parts of one prediction are joined."""
    records = [read_record(path) for path in find_records(source)]
    if not records:
        return
    first = records[0].source
    if first.postprocessing is not None:
        log.warning("these predictions have been post-processed before")
    with open_record(output, replace(first, postprocessing=content.hash())) as record:
        record.cases = {}
        for part in records:
            record.cases |= part.cases if part.source.is_like(first) else {}


def _weights_in(folder: Path) -> dict[str, str]:
    """Hash the final checkpoints of a model folder, or of the models in it."""
    files = sorted([*folder.glob("fold_*/final.pt"), *folder.glob("*/*/fold_*/final.pt")])
    return {file.relative_to(folder).as_posix(): checkpoint_hash(file) for file in files}


def finish_of(path: Path, description: DatasetDescription) -> Finish | None:
    """Read the rules that belong to a model; None where there are none.

    Rules that were fitted on other weights than now lie beside them are not used, which is told.

    Args:
        path: The file, which may be missing.
        description: Of what the model predicts.

    Raises:
        UserError: unreadable, or made for other labels.
    """
    if not path.is_file():
        return None
    content, schema = load_postprocessing(path), description.labels
    made_for = content.description(path).labels
    check_traits(
        {"labels": label_meanings(schema)}, {"labels": label_meanings(made_for)}, where=path
    )
    check_rules(content.rules, schema, where=path)
    if not content.rules:
        return None
    now = _weights_in(path.parent)
    if changed := [file for file, was in content.weights.items() if now.get(file, was) != was]:
        text = "%s is not used: it was fitted before %s was trained; fit it again"
        log.warning(text, path, listing(changed))
        return None
    return Finish(
        apply=lambda indices, geometry: apply_rules(content.rules, indices, geometry, schema),
        hash=content.hash(),
        summary="; ".join(map(str, content.rules)),
    )
