"""Engines against the network itself, and what is refused."""

import copy
import dataclasses
import platform
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from segkit.errors import UserError
from segkit.inference import engines
from segkit.inference.engines import (
    AUTO,
    ENGINES,
    INT8,
    choose_engine,
    start_engine,
    torch_engine,
    trial_input,
)
from segkit.inference.engines import openvino as engine_of_openvino
from segkit.inference.engines.forward import Engine, EngineFailed
from segkit.inference.engines.openvino import has_int8, openvino_works
from segkit.inference.engines.ranges import NotCalibrated, RangeObserver
from segkit.networks.build import build_network
from segkit.networks.own import OwnNetwork
from segkit.networks.unet import fuse_upsamplings
from segkit.options import Predict
from segkit.planning.plan import NetworkPlan
from segkit.precision import Precision

PLANS = {
    "3d": NetworkPlan(
        features_per_stage=(4, 8, 8),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        convs_per_stage=(1, 1, 1),
        convs_per_decoder_stage=(1, 1),
    ),
    "residual": NetworkPlan(
        kind="residual_encoder",
        features_per_stage=(4, 8),
        strides=((1, 1, 1), (2, 2, 2)),
        kernel_sizes=((3, 3, 3), (3, 3, 3)),
        convs_per_stage=(1, 2),
        convs_per_decoder_stage=(1,),
    ),
    "2d": NetworkPlan(
        features_per_stage=(4, 8),
        strides=((1, 1), (2, 2)),
        kernel_sizes=((3, 3), (3, 3)),
        convs_per_stage=(1, 1),
        convs_per_decoder_stage=(1,),
    ),
}
PLANS["batch norm"] = replace(PLANS["residual"], norm="batch", dropout=0.2)
SHAPES = {"3d": (8, 12, 16), "residual": (8, 8, 12), "2d": (16, 12), "batch norm": (8, 8, 12)}
needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="openvino is not installed")
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 0.05}
NAMES = ["torch", pytest.param("openvino", marks=needs_openvino)]


def make(kind):
    torch.manual_seed(0)
    plan = PLANS[kind]
    network = build_network(plan, in_channels=2, out_channels=3, deep_supervision=False).eval()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.5)
    if plan.norm == "batch":
        # Statistics that are not those of any input to come.
        network.train()(torch.randn(2, 2, *SHAPES[kind]) + 1)
        network.eval()
    return network, trial_input(plan, 2, SHAPES[kind])


def precision(dtype=torch.float32, device_type="cpu"):
    return Precision(device_type=device_type, dtype=dtype)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_engines_give_the_logits_of_the_network(name, kind, dtype):
    network, trial = make(kind)
    forward = start_engine(name, copy.deepcopy(network), trial, precision(dtype))
    for batch_size in (1, 3):
        batch = torch.randn(batch_size, 2, *SHAPES[kind])
        expected, found = network(batch), forward(batch)
        assert found.dtype == torch.float32
        apart = (found - expected).square().mean().sqrt() / expected.std()
        assert apart <= LIMITS[dtype]
        assert (apart > 1e-4) == (dtype != torch.float32)


needs_vnni = pytest.mark.skipif(
    not has_int8(), reason="this processor has no instructions for int8"
)


def measured(network, *inputs):
    """Return the ranges of the convolutions of a network, which is left as it is."""
    followed = copy.deepcopy(network)
    fuse_upsamplings(followed, traceable=True)
    observer = RangeObserver(followed)
    for batch in inputs:
        followed(batch)
    return observer.ranges


@needs_openvino
@needs_vnni
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("kind", PLANS)
@torch.inference_mode()
def test_integers_give_nearly_the_logits_of_the_network(kind, dtype):
    network, trial = make(kind)
    ranges = measured(network, torch.randn(4, 2, *SHAPES[kind]), trial)
    forward = start_engine(INT8, copy.deepcopy(network), trial, precision(dtype), ranges)
    for batch_size in (1, 3):
        batch = torch.randn(batch_size, 2, *SHAPES[kind])
        expected, found = network(batch), forward(batch)
        apart = (found - expected).square().mean().sqrt() / expected.std()
        # Further than float32 by far: the integers are really there.
        assert 1e-3 < apart < 0.08


@needs_openvino
@needs_vnni
@pytest.mark.parametrize("kind", PLANS)
@torch.inference_mode()
def test_integers_are_those_of_torch_when_it_rounds_alike(kind):
    network, trial = make(kind)
    # Ranges that cut much off: what that costs is not the engine's fault.
    ranges = {n: (low / 4, high / 4) for n, (low, high) in measured(network, trial).items()}
    rounding = copy.deepcopy(network)
    forward = start_engine(INT8, rounding, trial, precision(), ranges)
    batch = torch.randn(2, 2, *SHAPES[kind])
    found, alike, exact = forward(batch), rounding(batch), network(batch)
    assert (found - alike).square().mean().sqrt() < 1e-3 * exact.std()
    assert (found - exact).square().mean().sqrt() > 0.05 * exact.std()


@needs_openvino
@needs_vnni
@torch.inference_mode()
def test_integers_are_refused_where_they_do_not_belong(monkeypatch):
    network, trial = make("3d")
    ranges = measured(network, trial)
    few = dict(list(ranges.items())[1:])
    with pytest.raises(NotCalibrated, match="those of another network"):
        start_engine(INT8, copy.deepcopy(network), trial, precision(), few)
    own = OwnNetwork(Listing(), name="users.nets:Listing").eval()
    with pytest.raises(UserError, match="only networks of segkit's own"):
        start_engine(INT8, own, torch.randn(1, 2, 16, 12), precision(), ranges)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(UserError, match="no instructions for convolutions in int8") as error:
        start_engine(INT8, network, trial, precision(), ranges)
    assert "--engine openvino" in error.value.fix
    # An older torch does not tell; parity then decides.
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert has_int8()
    monkeypatch.setattr(engine_of_openvino, "_quantize_weights", lambda model: 0)
    with pytest.raises(UserError, match="shows convolutions otherwise than expected"):
        start_engine(INT8, network, trial, precision(), ranges)


@needs_openvino
@needs_vnni
@torch.inference_mode()
def test_convolutions_really_run_in_integers(monkeypatch):
    network, trial = make("3d")
    core, compiled = engine_of_openvino._core(), []

    class Keeping:
        def compile_model(self, *args):
            compiled.append(core.compile_model(*args))
            return compiled[0]

    monkeypatch.setattr(engine_of_openvino, "_core", Keeping)
    ranges = measured(network, trial)
    start_engine(INT8, network, trial, precision(torch.bfloat16), ranges)
    in_integers = set()
    for node in compiled[0].get_runtime_model().get_ops():
        told = {
            name: str(node.get_rt_info()[name].value) for name in ("layerType", "primitiveType")
        }
        if told["layerType"] == "Convolution" and "I8" in told["primitiveType"]:
            in_integers.add(node.get_friendly_name().removeprefix("__module.").split("/")[0])
    assert in_integers == set(ranges)


def test_weights_are_brought_to_the_precision_once_and_norms_stay_exact():
    network, trial = make("3d")
    torch_engine(network, trial, precision(torch.bfloat16), {})
    unit = network.encoder.stages[0].convs[0]
    assert unit.conv.weight.dtype == torch.bfloat16
    assert unit.norm.weight.dtype == torch.float32


def test_the_command_line_offers_the_engines_there_are():
    (field,) = (f for f in dataclasses.fields(Predict) if f.name == "engine")
    assert field.metadata["choices"] == (AUTO, *ENGINES)
    assert field.default == AUTO


@pytest.mark.parametrize(
    ("name", "device_type", "segkits", "installed", "outputs", "chosen"),
    [
        ("auto", "cpu", True, True, 30, "openvino"),
        ("auto", "cpu", True, True, 31, "torch"),
        ("auto", "cpu", True, False, 2, "torch"),
        ("auto", "cpu", False, True, 2, "torch"),
        ("auto", "cuda", True, True, 2, "torch"),
        ("auto", "mps", True, True, 2, "torch"),
        ("torch", "cpu", True, True, 2, "torch"),
        ("openvino", "cpu", False, False, 99, "openvino"),
    ],
)
def test_the_fastest_exact_engine_is_chosen(
    monkeypatch, name, device_type, segkits, installed, outputs, chosen
):
    monkeypatch.setattr(engines, "openvino_works", lambda: installed)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert choose_engine(name, device_type, segkits=segkits, outputs=outputs) == chosen


def test_what_was_not_measured_stays_with_torch(monkeypatch):
    monkeypatch.setattr(engines, "openvino_works", lambda: True)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert choose_engine("auto", "cpu", outputs=2) == "torch"


def test_a_package_that_is_not_there_is_not_told_of(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not openvino_works.__wrapped__()
    assert not caplog.records


@needs_openvino
def test_openvino_is_tried_where_it_can_do_no_harm(monkeypatch, caplog, tmp_path):
    # What lies in the working folder is nobody's business.
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert openvino_works.__wrapped__()
    assert not caplog.records
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV) # {path}"
    monkeypatch.setattr(engine_of_openvino, "_TRIAL", crash)
    assert not openvino_works.__wrapped__()
    assert "not used on this machine: it ends without a word (exit code -11)" in caplog.text
    monkeypatch.setattr(engine_of_openvino, "_TRIAL", "raise OSError('no such processor') # {path}")
    assert not openvino_works.__wrapped__()
    assert "OSError: no such processor (exit code 1)" in caplog.text
    monkeypatch.setattr(engine_of_openvino, "_TRIAL", "import os; os._exit(0) # {path}")
    assert not openvino_works.__wrapped__()


def test_a_damaged_package_is_not_called_missing(monkeypatch, tmp_path):
    (tmp_path / "openvino.py").write_text("raise OSError('libtbb.so.12 is not there')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    with pytest.raises(EngineFailed, match="cannot be imported: OSError: libtbb"):
        engine_of_openvino.import_openvino()


@needs_openvino
def test_models_that_have_gone_leave_little_behind():
    code = """
import resource
import torch
from segkit.inference.engines.openvino import openvino_engine
from segkit.precision import Precision
precision = Precision(device_type="cpu", dtype=torch.float32)
image = torch.ones(1, 1, 16, 16)
def peak():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1024, 3), torch.nn.Conv2d(1024, 1024, 3))
    openvino_engine(network.eval(), image, precision, {})(image)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peaks = [peak() for _ in range(8)]
print((peaks[-1] - peaks[3]) >> 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Of 36 MiB of weights each.
    assert int(done.stdout) < 2 * 36


@needs_openvino
@pytest.mark.parametrize("executable", [None, "", "/opt/viewer/viewer"])
def test_programs_that_are_not_python_are_not_started_again(monkeypatch, caplog, executable):
    monkeypatch.setattr(sys, "executable", executable)
    assert not openvino_works.__wrapped__()
    assert "this program is not Python" in caplog.text


def test_a_folder_of_that_name_is_not_the_package(monkeypatch, caplog, tmp_path):
    (tmp_path / "openvino").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    assert not openvino_works.__wrapped__()
    assert not caplog.records


@needs_openvino
def test_signals_reach_their_handlers_after_models_have_gone():
    code = """
import os, signal
import torch
from segkit.inference.engines.openvino import openvino_engine
from segkit.precision import Precision
def make():
    precision = Precision(device_type="cpu", dtype=torch.float32)
    image = torch.ones(1, 1, 8, 8)
    forward = openvino_engine(torch.nn.Conv2d(1, 1, 3).eval(), image, precision, {})
    forward(image)
    return forward
signal.signal(signal.SIGTERM, lambda *_: print("received"))
first, second = make(), make()
del first
del second
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "received\n"


class Recording:
    """OpenVINO's runtime, and what it was asked to compile."""

    def __init__(self, core):
        self.core, self.compiled = core, []

    def compile_model(self, model, device, settings):
        self.compiled.append((tuple(model.input(0).get_shape()), settings))
        return self.core.compile_model(model, device, settings)


@needs_openvino
@torch.inference_mode()
def test_openvino_compiles_for_one_input_of_every_new_shape(monkeypatch):
    core = Recording(engine_of_openvino._core())
    monkeypatch.setattr(engine_of_openvino, "_core", lambda: core)
    network, trial = make("2d")
    name, patch = "openvino", (16, 12)
    forward = start_engine(name, copy.deepcopy(network), trial, precision(), None, patch_size=patch)
    for shape in [patch, (8, 8)]:
        batch = torch.randn(2, 2, *shape)
        torch.testing.assert_close(forward(batch), network(batch), rtol=0, atol=1e-4)
    shapes, settings = zip(*core.compiled, strict=True)
    assert shapes == (tuple(trial.shape), (1, 2, *patch), (1, 2, 8, 8))
    assert not settings[0]["ENABLE_CPU_PINNING"]
    assert settings[0]["INFERENCE_NUM_THREADS"] == torch.get_num_threads()


def test_the_trial_is_small_and_what_the_network_takes():
    _, trial = make("3d")
    assert trial.shape == (1, 2, 4, 8, 8)
    assert trial_input(PLANS["3d"], 1, (4, 4, 64)).shape == (1, 1, 4, 4, 8)


def why_it_failed(**options):
    """Start the engine "fake", which fails; returns what is told, beside torch as the way out."""
    network, trial = make("2d")
    with pytest.raises(EngineFailed) as error:
        start_engine("fake", network, trial, precision(), **options)
    assert "--engine torch" in error.value.fix
    return error.value.what


def fake(change):
    return Engine(
        start=lambda network, trial, precision, ranges: lambda batch: change(network(batch)),
    )


@pytest.mark.parametrize(
    "change", [lambda x: x + 0.01 * x.std(), lambda x: x.flip(1), lambda x: x * float("nan")]
)
def test_an_engine_with_other_logits_is_refused(monkeypatch, change):
    monkeypatch.setitem(ENGINES, "fake", fake(change))
    assert "gives other logits than torch" in why_it_failed()


def failing(where, *, most_voxels=0):
    """An engine that fails when it starts, or for inputs of more voxels."""

    def start(network, trial, precision, ranges):
        def forward(batch):
            if batch.numel() > most_voxels:
                raise RuntimeError("unsupported\noperation")
            return network(batch)

        return forward if where == "forward" else forward(trial)

    return Engine(start=start)


@pytest.mark.parametrize("where", ["start", "forward"])
def test_an_engine_that_fails_says_so_in_a_line(monkeypatch, where):
    monkeypatch.setitem(ENGINES, "fake", failing(where))
    assert "cannot run this network: unsupported operation" in why_it_failed()


def test_an_engine_is_tried_on_a_whole_patch(monkeypatch):
    network, trial = make("2d")
    monkeypatch.setitem(ENGINES, "fake", failing("forward", most_voxels=trial.numel()))
    start_engine("fake", network, trial, precision())
    assert "unsupported operation" in why_it_failed(patch_size=(32, 24))


def test_what_a_precision_costs_is_allowed(monkeypatch):
    monkeypatch.setitem(ENGINES, "fake", fake(lambda x: x + 0.01 * x.std()))
    network, trial = make("2d")
    forward = start_engine("fake", network, trial, precision(torch.bfloat16))
    assert forward(trial).shape == (1, 3, *trial.shape[2:])


def test_what_cannot_run_is_refused(monkeypatch):
    network, trial = make("2d")
    with pytest.raises(UserError, match="unknown engine 'tensorrt'"):
        start_engine("tensorrt", network, trial, precision())
    with pytest.raises(UserError, match="runs on the CPU only"):
        start_engine("openvino", network, trial, precision(torch.float16, "cuda"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="not installed") as error:
        start_engine("openvino", network, trial, precision())
    assert "segkit[openvino]" in error.value.fix


class Listing(torch.nn.Module):
    """A user's network, which lists its outputs in eval mode too."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, image):
        logits = self.conv(image)
        return [logits, logits[..., ::2, ::2]]


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_class_of_the_users_runs_in_engines_with_its_weights_as_they_are(name):
    torch.manual_seed(0)
    network = OwnNetwork(Listing(), name="users.nets:Listing").eval()
    plan = replace(PLANS["2d"], class_="users.nets:Listing")
    # Of a class nothing is known but that it takes a whole patch.
    trial = trial_input(plan, 2, (16, 12))
    assert trial.shape == (1, 2, 16, 12)
    forward = start_engine(name, network, trial, precision(torch.bfloat16))
    batch = torch.randn(3, 2, 16, 12)
    expected = network(batch)
    apart = (forward(batch) - expected).square().mean().sqrt() / expected.std()
    assert apart <= LIMITS[torch.bfloat16]
    assert network.network.conv.weight.dtype == torch.float32
