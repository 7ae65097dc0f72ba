"""Predicting images."""

from __future__ import annotations

from pathlib import Path

from segkit import options as opt
from segkit.inference.files import Writing, check_output_folder
from segkit.inference.partners import check_shares
from segkit.networks.own import allow_code
from segkit.runtime import prepare_torch, resolve_device
from segkit.workflows.common import Outcome
from segkit.workflows.models import Loading, chosen_folders
from segkit.workflows.predictor import Predictor


def predict(options: opt.Predict) -> Outcome[tuple[Path, ...]]:
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
    loading = Loading(
        device=resolve_device(options.device),
        folds=options.folds,
        checkpoint=options.checkpoint,
        precision=options.precision,
        engine=options.engine,
        postprocess=not options.no_postprocessing,
        previous_stage=options.previous_stage,
    )
    prepare_torch()
    with allow_code(*options.allow_code):
        predictor = Predictor.load(dict(zip(folders, shares, strict=True)), loading)
    written = predictor.write_files(
        options.inputs, options.output, writing, step=options.step, tta=not options.no_tta
    )
    kept = f" ({written.kept} of them before)" if written.kept else ""
    text = f"predicted {len(written.paths)} case(s){kept}, in {options.output}"
    return Outcome(text=text, result=written.paths)
