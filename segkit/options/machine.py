"""Options of the commands about this machine."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.options.common import Common


@dataclass(frozen=True, kw_only=True)
class Doctor(Common):
    """Show what this machine offers segkit: versions, devices, memory, and what is missing."""
