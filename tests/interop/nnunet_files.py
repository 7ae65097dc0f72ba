"""Tiny models of nnU-Net, written as it writes them: state dicts, plans, folders.

Nothing here imports segkit: names of tensors and the forward pass are written down once more, from
nnU-Net's layout, so that what is imported can be held against it.
"""

import json

import torch
from torch.nn import functional

UNET = "dynamic_network_architectures.architectures.unet"
FEATURES = (4, 6, 8)
STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
KERNELS = ((1, 3, 3), (3, 3, 3), (3, 3, 3))
ENCODER = {"PlainConvUNet": (2, 2, 2), "ResidualEncoderUNet": (1, 2, 1)}
DECODER = {"PlainConvUNet": (2, 2), "ResidualEncoderUNet": (1, 1)}
DATASET = {
    "channel_names": {"0": "CT", "1": "T2"},
    "labels": {"background": 0, "b": 2, "a": 1},
    "numTraining": 5,
    "file_ending": ".nii.gz",
}
STATISTICS = {
    "mean": 50.0,
    "median": 45.0,
    "std": 20.0,
    "min": -100.0,
    "max": 200.0,
    "percentile_00_5": -50.0,
    "percentile_99_5": 150.0,
}
RESAMPLING = {"order_z": 0, "force_separate_z": None}


def arch_kwargs(name="PlainConvUNet", ndim=3):
    """Return what nnU-Net builds the network with."""
    counted = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "n_stages": 3,
        "features_per_stage": list(FEATURES),
        "conv_op": f"torch.nn.modules.conv.Conv{ndim}d",
        "kernel_sizes": [list(kernel[-ndim:]) for kernel in KERNELS],
        "strides": [list(stride[-ndim:]) for stride in STRIDES],
        counted: list(ENCODER[name]),
        "n_conv_per_stage_decoder": list(DECODER[name]),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{ndim}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def configuration(name="PlainConvUNet", ndim=3, channels=2, **changes):
    """Return one configuration of plans.json."""
    return {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [4, 8, 8][-ndim:],
        "median_image_size_in_voxels": [6.0, 12.0, 12.0][-ndim:],
        "spacing": [2.0, 1.0, 1.0][-ndim:],
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"][:channels],
        "use_mask_for_norm": [False, True][:channels],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **RESAMPLING},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **RESAMPLING},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **RESAMPLING},
        "architecture": {
            "network_class_name": f"{UNET}.{name}",
            "arch_kwargs": arch_kwargs(name, ndim),
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
        **changes,
    }


def plans(**changes):
    """Return a plans.json with the configuration ``3d_fullres``."""
    return {
        "dataset_name": "Dataset007_Toy",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 1.0, 1.0],
        "original_median_shape_after_transp": [6, 12, 12],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration()},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": STATISTICS, "1": STATISTICS},
        **changes,
    }


def units(name="PlainConvUNet", inputs=2):
    """Yield (name, in, out, kernel, has a bias) of every conv-norm unit, as nnU-Net names them."""
    before = inputs
    if name == "ResidualEncoderUNet":
        yield "encoder.stem.convs.0", inputs, FEATURES[0], KERNELS[0], True
        before = FEATURES[0]
    for stage, (width, kernel) in enumerate(zip(FEATURES, KERNELS, strict=True)):
        for i in range(ENCODER[name][stage]):
            if name == "PlainConvUNet":
                yield f"encoder.stages.{stage}.0.convs.{i}", before, width, kernel, True
            else:
                block = f"encoder.stages.{stage}.blocks.{i}"
                yield f"{block}.conv1", before, width, kernel, True
                yield f"{block}.conv2", width, width, kernel, True
                if before != width:
                    yield f"{block}.skip.1", before, width, (1, 1, 1), False
            before = width
    for stage, width in enumerate(reversed(FEATURES[:-1])):
        for i in range(DECODER[name][stage]):
            channels = width if i else 2 * width
            kernel = KERNELS[1 - stage]
            yield f"decoder.stages.{stage}.convs.{i}", channels, width, kernel, True


def state_dict(
    name="PlainConvUNet", ndim=3, outputs=3, seed=0, inputs=2, *, batch=False, dropout=False
):
    """Return random weights under every name that nnU-Net gives them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 0.3 * torch.randn(*shape, generator=generator)

    weights = {}
    for unit, channels, width, kernel, bias in units(name, inputs):
        tensors = {"conv.weight": draw(width, channels, *kernel[-ndim:])}
        tensors |= {"conv.bias": draw(width)} if bias else {}
        tensors |= {"norm.weight": 1 + draw(width), "norm.bias": draw(width)}
        if batch:
            tensors |= {"norm.running_mean": draw(width), "norm.running_var": 1 + draw(width) ** 2}
            tensors["norm.num_batches_tracked"] = torch.tensor(7)
        place = {"conv": 0, "norm": 1 + (dropout and not unit.endswith(("conv2", "skip.1")))}
        for part, tensor in tensors.items():
            layer, _, kind = part.partition(".")
            alias = f"all_modules.{place[layer]}.{kind}"
            for key in (f"{unit}.{part}", f"{unit}.{alias}"):
                weights[key] = tensor
                if unit.startswith("encoder."):
                    weights[f"decoder.{key}"] = tensor
    below = FEATURES[-1]
    for stage, width in enumerate(reversed(FEATURES[:-1])):
        stride = STRIDES[2 - stage][-ndim:]
        weights[f"decoder.transpconvs.{stage}.weight"] = draw(below, width, *stride)
        weights[f"decoder.transpconvs.{stage}.bias"] = draw(width)
        weights[f"decoder.seg_layers.{stage}.weight"] = draw(outputs, width, *(1,) * ndim)
        weights[f"decoder.seg_layers.{stage}.bias"] = draw(outputs)
        below = width
    return weights


def forward(weights, image, name="PlainConvUNet"):
    """Run nnU-Net's network in plain torch, by the canonical names; full resolution logits."""
    ndim = image.ndim - 2
    convolve = (functional.conv2d, functional.conv3d)[ndim - 2]
    transpose = (functional.conv_transpose2d, functional.conv_transpose3d)[ndim - 2]
    pool = (functional.avg_pool2d, functional.avg_pool3d)[ndim - 2]

    def unit(x, key, stride=1, slope=0.01):
        weight = weights[f"{key}.conv.weight"]
        padding = [(size - 1) // 2 for size in weight.shape[2:]]
        x = convolve(x, weight, weights.get(f"{key}.conv.bias"), stride, padding)
        norm = {part: weights[f"{key}.norm.{part}"] for part in ("weight", "bias")}
        if (mean := weights.get(f"{key}.norm.running_mean")) is not None:
            x = functional.batch_norm(x, mean, weights[f"{key}.norm.running_var"], **norm, eps=1e-5)
        else:
            x = functional.instance_norm(x, **norm, eps=1e-5)
        return functional.leaky_relu(x, slope)

    def block(x, key, stride):
        y = unit(unit(x, f"{key}.conv1", stride), f"{key}.conv2", slope=1.0)
        x = pool(x, stride, stride) if max(stride) > 1 else x
        if f"{key}.skip.1.conv.weight" in weights:
            x = unit(x, f"{key}.skip.1", slope=1.0)
        return functional.leaky_relu(x + y, 0.01)

    skips, ones = [], (1,) * ndim
    x = unit(image, "encoder.stem.convs.0") if name == "ResidualEncoderUNet" else image
    for stage, count in enumerate(ENCODER[name]):
        for i in range(count):
            stride = ones if i else STRIDES[stage][-ndim:]
            if name == "PlainConvUNet":
                x = unit(x, f"encoder.stages.{stage}.0.convs.{i}", stride)
            else:
                x = block(x, f"encoder.stages.{stage}.blocks.{i}", stride)
        skips.append(x)
    for stage, count in enumerate(DECODER[name]):
        up = f"decoder.transpconvs.{stage}"
        stride = STRIDES[2 - stage][-ndim:]
        x = transpose(x, weights[f"{up}.weight"], weights[f"{up}.bias"], stride)
        x = torch.cat((x, skips[1 - stage]), dim=1)
        for i in range(count):
            x = unit(x, f"decoder.stages.{stage}.convs.{i}")
    return convolve(x, weights["decoder.seg_layers.1.weight"], weights["decoder.seg_layers.1.bias"])


def checkpoint(weights, **changes):
    """Return the content of a checkpoint_*.pth."""
    import numpy as np

    return {
        "network_weights": weights,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(0.1)]},
        "_best_ema": np.float32(0.5),
        "current_epoch": 1,
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **changes,
    }


def write_trained(folder, name="PlainConvUNet", *, folds=("0",), ndim=3, **changes):
    """Write a trainer's folder; ``changes`` are keys of plans.json."""
    made = plans(configurations={"3d_fullres": configuration(name, ndim)}) | changes
    trained = folder / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    trained.mkdir(parents=True)
    (trained / "plans.json").write_text(json.dumps(made))
    (trained / "dataset.json").write_text(json.dumps(DATASET))
    for seed, fold in enumerate(folds):
        (trained / f"fold_{fold}").mkdir()
        weights = state_dict(name, ndim, seed=seed)
        file = trained / f"fold_{fold}" / "checkpoint_final.pth"
        torch.save(checkpoint(weights), file)
    return trained


def write_cascade(folder, dataset=DATASET, outputs=3):
    """Write both stages of a cascade beside each other."""
    made = plans(
        configurations={
            "3d_lowres": configuration(spacing=[4.0, 2.0, 2.0]),
            "3d_cascade_fullres": configuration(previous_stage="3d_lowres"),
        }
    )
    for name, inputs in (("3d_lowres", 2), ("3d_cascade_fullres", 4)):
        trained = folder / f"nnUNetTrainer__nnUNetPlans__{name}"
        (trained / "fold_0").mkdir(parents=True)
        (trained / "plans.json").write_text(json.dumps(made))
        (trained / "dataset.json").write_text(json.dumps(dataset))
        weights = state_dict(outputs=outputs, inputs=inputs)
        content = checkpoint(weights, init_args={"configuration": name})
        torch.save(content, trained / "fold_0" / "checkpoint_final.pth")
    return trained
