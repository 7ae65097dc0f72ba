"""Predicting images."""

from __future__ import annotations

from segkit import options as opt
from segkit.inference.files import Writing, check_output_folder, look_for_images, predict_cases
from segkit.inference.partners import check_shares
from segkit.runtime import log
from segkit.workflows.common import Outcome
from segkit.workflows.models import chosen_folders, describe_work
from segkit.workflows.predictor import Predictor


def predict(options: opt.Predict) -> Outcome:
    """Segment images; see :class:`segkit.options.Predict`."""
    whole = (options.part_id, options.num_parts) == (0, 1)
    writing = Writing(
        keep_probabilities=options.save_probabilities,
        dicom_seg=options.dicom_seg,
        keep_done=options.keep_done,
        part=None if whole else (options.part_id, options.num_parts),
    )
    check_output_folder(options.output)
    folders = chosen_folders(options)
    shares = check_shares(options.weights, len(folders))
    predictor = Predictor.from_folder(
        dict(zip(folders, shares, strict=True)),
        folds=options.folds,
        checkpoint=options.checkpoint,
        device=options.device,
        precision=options.precision,
        engine=options.engine,
    )
    work = predictor.work.with_settings(options.step, mirror=not options.no_tta)
    for line in describe_work(work):
        log.info("%s", line)
    given = look_for_images(options.inputs, work.model.description)
    written = predict_cases(work, given, options.output, writing)
    kept = f" ({written.kept} of them before)" if written.kept else ""
    return Outcome(text=f"predicted {len(written.paths)} case(s){kept}, in {options.output}")
