"""``segkit doctor``: what this machine offers."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys

import torch

import segkit
from segkit import options as opt
from segkit.dataset.description import SCHEMA_FILE
from segkit.inference.engines import AUTO, choose_engine
from segkit.precision import choose_precision
from segkit.runtime import available_memory, cpu_count, idle_cpus, resolve_device
from segkit.workflows.common import Outcome

PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "nibabel", "batchgenerators", "matplotlib")
LITTLE_MEMORY = 4 << 30
LITTLE_DISK = 10 << 30


def doctor(options: opt.Doctor) -> Outcome:
    """Report versions, devices, memory and disk, and warn of what is short."""
    device = resolve_device(options.device)
    precision = str(choose_precision("auto", device).dtype).removeprefix("torch.")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    parent = next(p for p in (options.workdir, *options.workdir.resolve().parents) if p.is_dir())
    memory, disk = available_memory(), shutil.disk_usage(parent).free
    lines = [
        f"segkit      {segkit.__version__}, Python {sys.version.split()[0]}, {platform.platform()}",
        f"packages    {versions}",
        f"engine      {_engine(device)}",
        f"device      {device} ({_device_name(device)}), precision {precision}",
        f"CPUs        {cpu_count()} usable, {idle_cpus():.1f} of them idle now",
        f"memory      {memory / 2**30:.1f} GiB free",
        f"disk        {disk / 2**30:.1f} GiB free for {options.workdir}",
        f"editors     JSON Schema of dataset.json: {SCHEMA_FILE}",
        *_warnings(memory, disk),
    ]
    return Outcome(text="\n".join(lines))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return f"{torch.cuda.get_device_name(device)}, {total / 2**30:.0f} GiB"
    return platform.processor() or platform.machine()


def _engine(device: torch.device) -> str:
    """Say what predicts, where nothing else is asked for."""
    if choose_engine(AUTO, device.type, outputs=2) == "torch":
        return "torch predicts"
    return f"OpenVINO {importlib.metadata.version('openvino')} predicts"


def _warnings(memory: int, disk: int) -> list[str]:
    lines = []
    if memory < LITTLE_MEMORY:
        lines.append("warning: little memory; use -j 1 and a small patch")
    if disk < LITTLE_DISK:
        lines.append("warning: little disk space; preprocessed CT datasets need tens of GiB")
    if not torch.cuda.is_available():
        lines.append("note: no CUDA GPU; training runs on the CPU, best with --time-budget")
    return lines
