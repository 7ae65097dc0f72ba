"""A network that is the user's own class, found by its import path.

It is called as ``Class(in_channels=, out_channels=, patch_size=, deep_supervision=, **arguments)``
and takes (B, in, *patch) to logits (B, out, *patch), or to a list of them, finest first.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from segkit.errors import UserError, nearest
from segkit.runtime import log

_allowed: ContextVar[frozenset[str]] = ContextVar("allowed code", default=frozenset())


class OwnNetwork(nn.Module):
    """Brings a user's network into the form all others have."""

    def __init__(self, network: nn.Module, *, name: str) -> None:
        super().__init__()
        self.network = network
        self.name = name

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(B, in, *S) to logits (B, out, *S); in train mode to what the network gives.

        The image is laid out as torch does by default, for code that calls ``view``.
        """
        outputs = self.network(image.contiguous())
        several = isinstance(outputs, (list, tuple))
        if self.training:
            return list(outputs) if several else outputs
        return outputs[0] if several else outputs


def build_own_network(
    path: str, arguments: Mapping[str, Any], *, in_channels: int, out_channels: int
) -> OwnNetwork:
    """Import a class and call it; this runs the user's code.

    Raises:
        UserError: it cannot be imported or called, or what it returns is no network.
    """
    made = import_class(path)
    told = dict(arguments)
    if "patch_size" in told:
        told["patch_size"] = tuple(told["patch_size"])
    try:
        network = made(in_channels=in_channels, out_channels=out_channels, **told)
    except Exception as error:
        what = f"{path} cannot be called: {in_words(error)}"
        fix = f"it must take {_call(in_channels, out_channels, told)}"
        raise UserError(what, where="network.class", fix=fix) from error
    if not isinstance(network, nn.Module):
        what = f"{path} must give a torch.nn.Module, got {type(network).__name__}"
        raise UserError(what, where="network.class", fix="name the class of your network")
    return OwnNetwork(network, name=path)


def import_class(path: str) -> Callable[..., Any]:
    """Return what ``package.module:Class`` names, from where Python finds modules.

    Raises:
        UserError: there is no such module or no such class in it.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise _not_importable(path, module_name, error) from error
    except Exception as error:
        what = f"{module_name} fails when it is imported: {in_words(error)}"
        raise UserError(what, where="network.class", fix="correct it; -v shows where") from error
    found = getattr(module, name, None)
    if not callable(found):
        classes = [n for n, x in vars(module).items() if inspect.isclass(x)] or ["none"]
        what = f"{module_name} has no class {name!r}"
        raise UserError(what, where="network.class", fix=nearest(name, classes))
    log.info("network: %s of %s", path, getattr(module, "__file__", "this process"))
    return found


@contextlib.contextmanager
def allow_code(*paths: str) -> Iterator[None]:
    """Within this context, model folders may name these classes as their networks.

    Example:
        ``with segkit.allow_code("package.nets:MyNet"): Predictor.from_folder("model")``

    Args:
        paths: Import paths, ``package.module:Class``.
    """
    token = _allowed.set(_allowed.get() | set(paths))
    try:
        yield
    finally:
        _allowed.reset(token)


def check_allowed(path: str | None, *, where: object) -> None:
    """Refuse to run the class a model folder names, unless the user names it too.

    Raises:
        UserError: :func:`allow_code` does not name it.
    """
    if path is None or path in _allowed.get():
        return
    what = f"this model's network is code that is not part of segkit: {path}"
    fix = f"if you trust what is installed here under that name: --allow-code {path}"
    raise UserError(what, where=where, fix=fix)


def in_words(error: BaseException) -> str:
    """Say an exception of the user's code in one line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}{': ' if text else ''}{text}"


def _not_importable(path: str, module_name: str, error: ModuleNotFoundError) -> UserError:
    missing = str(error.name)
    if module_name == missing or module_name.startswith(f"{missing}."):
        what = f"this machine has no module {missing!r}, which the network {path} is in"
        fix = "install it (pip install -e FOLDER), or put the folder it is in on PYTHONPATH"
    else:
        what = f"{module_name} needs the module {missing!r}, which is not installed"
        fix = f"install {missing}"
    return UserError(what, where="network.class", fix=fix)


def _call(in_channels: int, out_channels: int, arguments: Mapping[str, Any]) -> str:
    told = {"in_channels": in_channels, "out_channels": out_channels, **arguments}
    return ", ".join(f"{name}={value!r}" for name, value in told.items())
