"""A previous stage at work for a cascade's training: label maps on the next stage's grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from segkit.dataset.cases import Case
from segkit.inference.case import CasePredictor, Prediction
from segkit.inference.stages import Stages, overlapped
from segkit.parallel import gather
from segkit.preprocessing.pipeline import CaseRecord


def predict_for_next(
    work: CasePredictor,
    cases: Sequence[Case],
    target: Callable[[str], CaseRecord],
    save: Callable[[str, np.ndarray], None],
) -> None:
    """Predict cases on the grid of the next stage; what fails is named after all others are done.

    Args:
        work: The previous stage, ready to predict.
        cases: To predict.
        target: Case id -> what preprocessing did to the case for the next stage.
        save: Takes case id and label maps (1 or S, Z, Y, X), schema indices.

    Raises:
        UserError: cases that failed.
    """

    def write(case: Case, prediction: Prediction) -> None:
        save(case.id, work.segment_for(prediction, target(case.id)))

    stages = Stages(read=work.read, compute=work.predict, write=write, alone=work.needs_all_memory)
    gather(overlapped(cases, stages, _case_id), cases, "predict", _case_id)


def _case_id(case: Case) -> str:
    return case.id
