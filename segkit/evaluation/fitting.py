"""Which post-processing rules are worth adopting: fitted on some cases, judged on the others.

A rule that is chosen and judged on the same cases always looks good. Here the cases are in folds.
For each fold the best candidate is chosen on all other folds and applied to this one, so that every
case is judged under a rule it had no part in. A target's rule is adopted only if, over all cases,

* its mean Dice rises by :data:`MIN_GAIN` or more (for all foreground together, the mean over the
  targets), whichever single case is left out, so that no one case decides;
* no target's mean Dice falls.

What is adopted is then the best candidate on all cases. The steps, each on what the ones before
have left: all foreground together; pieces of every target; holes of every target. Of regions each
is a step of its own, for they share voxels.

Undefined Dice (the target is on neither side) is left out of means, as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from segkit.dataset.description import DatasetDescription
from segkit.dataset.image_io import read_header
from segkit.dataset.labels import LabelSchema
from segkit.evaluation.case import CasePair
from segkit.evaluation.pairs import file_of
from segkit.evaluation.postprocessing import Postprocessing, Rule, Trial, voxel_mm3
from segkit.evaluation.trials import CaseTrials, Counts, Stage, try_case
from segkit.parallel import choose_jobs, map_cases, threads

MIN_GAIN = 0.001
"""Of a mean Dice (0..1): smaller effects are not worth a rule."""
MIN_CASES = 5
"""Fewer cases tell nothing."""
FOLDS = 5
"""Of cases that are in none."""
BYTES_PER_JOB = 1 << 31
_ROUNDING = 1e-9
_DECADES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """What candidates make of the targets they touch, over all cases."""

    target: str | None
    rules: tuple[Rule | None, ...]
    """The first is None: to do nothing."""
    counts: Counts
    """(cases, rules, touched, 3)."""
    own: int | None
    """Which of the touched is the target; None: the mean over all counts."""
    names: tuple[str, ...]
    """Of the touched."""


def fit_postprocessing(
    pairs: Sequence[CasePair],
    description: DatasetDescription,
    *,
    folds: Mapping[str, object] | None = None,
    jobs: int | None = None,
) -> Postprocessing:
    """Find the rules that help on cases they were not chosen on.

    Args:
        pairs: Predictions of cases the models were not trained on, and their references.
        description: The data set.
        folds: Case -> fold it was predicted in; cases are dealt into folds where there are fewer
            than two.
        jobs: Worker threads; None chooses.

    Raises:
        UserError: as for :func:`segkit.evaluation.case.evaluate_case`.
    """
    schema, rules, trials = description.labels, list[Rule](), list[Trial]()
    groups = _groups([pair.case for pair in pairs], folds or {})
    for stage in _stages(pairs, description) if len(pairs) >= MIN_CASES else ():
        cases = _try(pairs, description, stage, rules, jobs)
        found = [judge(each, groups, pairs) for each in candidates(cases, stage, schema)]
        trials += found
        rules += [trial.rule for trial in found if trial.adopted and trial.rule is not None]
    left_out = tuple(structure.name for structure in schema.left_out)
    return Postprocessing(
        rules=tuple(rules), trials=tuple(trials), dataset=description.content, left_out=left_out
    )


def _try(
    pairs: Sequence[CasePair],
    description: DatasetDescription,
    stage: Stage,
    so_far: Sequence[Rule],
    jobs: int | None,
) -> list[CaseTrials]:
    jobs = choose_jobs(jobs, items=len(pairs), bytes_per_job=BYTES_PER_JOB)
    work = partial(
        try_case,
        stage=stage,
        so_far=tuple(so_far),
        schema=description.labels,
        reader=description.reader,
    )
    with threads(jobs) as executor:
        return map_cases(
            work, pairs, label="post-processing", jobs=jobs, executor=executor, name=_case
        )


def _case(pair: CasePair) -> str:
    return pair.case


def _stages(pairs: Sequence[CasePair], description: DatasetDescription) -> list[Stage]:
    """List what is tried, step by step."""
    schema = description.labels
    targets = schema.target_names
    grids = [read_header(file_of(pair.pred), description.reader) for pair in pairs]
    volumes = thresholds_mm3(min(voxel_mm3(grid.geometry) for grid in grids))
    together: list[tuple[str | None, ...]] = [(None,)] if len(targets) > 1 else []
    each: list[tuple[str | None, ...]] = [targets]
    if schema.has_regions:
        each = [(name,) for name in targets]
    pieces = [
        Stage(targets=group, operations=("remove_small", "keep_largest"), thresholds_mm3=volumes)
        for group in (*together, *each)
    ]
    holes = [Stage(targets=group, operations=("fill_holes",)) for group in each]
    return [*pieces, *holes]


def thresholds_mm3(voxel: float) -> tuple[float, ...]:
    """List round volumes (1, 2, 5, 10, ...) from above a voxel to a million times that."""
    first = int(np.floor(np.log10(voxel)))
    decades = range(first, first + _DECADES + 2)
    volumes = [float(f"{step}e{decade}") for decade in decades for step in (1, 2, 5)]
    return tuple(v for v in volumes if voxel < v <= voxel * 10**_DECADES)


def _groups(cases: Sequence[str], folds: Mapping[str, object]) -> np.ndarray:
    """Return the number of every case's fold."""
    names = [str(folds.get(case)) for case in cases]
    if len(set(names)) < 2:
        return np.argsort(np.argsort(cases)) % FOLDS
    return np.unique(names, return_inverse=True)[1].ravel()


def candidates(cases: Sequence[CaseTrials], stage: Stage, schema: LabelSchema) -> list[Candidates]:
    """Gather what all candidates of a stage make of all cases, target by target.

    Targets that no candidate changes anywhere have no candidate but to do nothing.
    """
    found = []
    for target in stage.targets:
        attempts = [case.attempts.get(target) for case in cases]
        touched = next((list(each.touched) for each in attempts if each is not None), [])
        rules = stage.rules(target) if touched else ()
        before = np.stack([case.before[touched] for case in cases])[:, None]
        after = np.repeat(before, len(rules), axis=1)
        for row, attempt in zip(after, attempts, strict=True):
            if attempt is not None:
                row[...] = attempt.counts
        names = tuple(schema.target_names[number] for number in touched)
        found.append(
            Candidates(
                target=target,
                rules=(None, *rules),
                counts=np.concatenate([before, after], axis=1),
                own=names.index(target) if target in names else None,
                names=names,
            )
        )
    return found


def judge(tried: Candidates, groups: np.ndarray, pairs: Sequence[CasePair]) -> Trial:
    """Choose in all folds but one, apply to that one, and decide.

    Args:
        tried: Of one target.
        groups: (cases,) number of the fold.
        pairs: Name the cases.
    """
    dice = dice_of(tried.counts)
    best = _best(dice, tried.own)
    chosen = np.zeros(len(dice), dtype=np.int64)
    for group in np.unique(groups):
        chosen[groups == group] = _best(dice[groups != group], tried.own)
    before, after = dice[:, 0], dice[np.arange(len(dice)), chosen]
    why = _against(before, after, tried, [pair.case for pair in pairs]) if best else "nothing helps"
    goals = [_goal(_mean(each), tried.own) for each in (before, after)]
    return Trial(
        target=tried.target,
        adopted=why is None,
        rule=tried.rules[best],
        dice_before=_or_none(goals[0]),
        dice_after=_or_none(goals[1]),
        cases=len(dice),
        why=why or "helps on cases it was not chosen on",
    )


def dice_of(counts: Counts) -> np.ndarray:
    """Return Dice of counts (..., 3); NaN where it is undefined."""
    both, predicted, reference = np.moveaxis(counts, -1, 0)
    total = predicted + reference
    return np.where(total > 0, 2 * both / np.maximum(total, 1), np.nan)


def _mean(dice: np.ndarray) -> np.ndarray:
    """Return the mean over the cases (the first axis), undefined ones left out; NaN over none."""
    defined = ~np.isnan(dice)
    count = defined.sum(axis=0)
    total = np.where(defined, dice, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _goal(means: np.ndarray, own: int | None) -> np.ndarray:
    """Return what is to rise: of means (..., touched) the target's, or the mean of them."""
    if means.shape[-1] == 0:
        return np.full(means.shape[:-1], np.nan)
    return means[..., own] if own is not None else _mean(np.moveaxis(means, -1, 0))


def _best(dice: np.ndarray, own: int | None) -> int:
    """Return the candidate with the highest goal under which no target falls; 0 is to do nothing.

    Of equal ones the first, which is the least invasive.
    """
    means = _mean(dice)
    goals = np.where(_falls(means[0], means).any(axis=-1), -np.inf, _goal(means, own))
    goals = np.where(np.isnan(goals), -np.inf, goals)
    high = int(np.argmax(goals >= goals.max() - _ROUNDING))
    return high if goals[high] > goals[0] + _ROUNDING else 0


def _falls(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Whether a mean becomes lower, or nothing is left to take it of."""
    lower = after < before - _ROUNDING
    return lower | (np.isnan(after) & ~np.isnan(before))


def _against(
    before: np.ndarray, after: np.ndarray, tried: Candidates, cases: Sequence[str]
) -> str | None:
    """Say what speaks against adopting, from Dice (cases, touched); None for nothing."""
    means = _mean(before), _mean(after)
    falls = np.flatnonzero(_falls(*means))
    gain = float(_goal(means[1], tried.own) - _goal(means[0], tried.own))
    if len(falls):
        worst = falls[int(np.argmin((means[1] - means[0])[falls]))]
        return f"{tried.names[worst]} falls by {(means[0] - means[1])[worst]:.4f}"
    if not gain >= MIN_GAIN:
        return f"a gain of {gain:.4f} is below {MIN_GAIN:g}"
    for i, case in enumerate(cases):
        others = np.arange(len(cases)) != i
        goals = [_goal(_mean(each[others]), tried.own) for each in (before, after)]
        if not (left := float(goals[1] - goals[0])) >= MIN_GAIN:
            return f"the gain of {gain:.4f} hangs on one case: it is {left:.4f} without {case}"
    return None


def _or_none(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def explain_trials(content: Postprocessing) -> list[str]:
    """Say in a line each what was adopted and, of what looked good, what was not."""
    if not content.trials:
        return [f"post-processing: fewer than {MIN_CASES} cases, nothing tried"]
    lines = [
        f"post-processing: {trial.rule}: Dice {trial.dice_before:.4f} -> {trial.dice_after:.4f}, "
        f"judged on {trial.cases} cases it was not chosen on"
        for trial in content.trials
        if trial.adopted
    ]
    lines = lines or ["post-processing: nothing helps enough to be adopted"]
    return lines + [
        f"  not adopted: {trial.rule}: {trial.why}"
        for trial in content.trials
        if trial.rule is not None and not trial.adopted
    ]
