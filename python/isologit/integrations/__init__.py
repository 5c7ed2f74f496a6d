"""Trainers and engines that isologit plugs into, a module each; `status` tells which are here and in force."""

import importlib
import importlib.util
import sys
from typing import Any, NamedTuple

from isologit.integrations._table import PACKAGES, Package

__all__ = ["Status", "status", *PACKAGES]


class Status(NamedTuple):
    """Of one package: the version that is installed, or "", and the one that was tested; `why_not` is "" in force."""

    name: str
    distribution: str
    version: str
    tested: str
    in_force: bool
    why_not: str


def status() -> list[Status]:
    """What is installed here, and whether isologit computes in its place in this process; imports none of it."""
    from isologit.integrations._adapter import version

    rows = []
    for name, package in PACKAGES.items():
        seen = version(package) or ""
        module = sys.modules.get(f"{__name__}.{name}")
        on = bool(package.names and module is not None and module.in_force())
        why_not = "" if on else _why_not(package, seen)
        rows.append(Status(name, package.distribution, seen, package.tested, on, why_not))
    return rows


def _why_not(package: Package, seen: str) -> str:
    root = next(iter(package.names), "").partition(".")[0]
    if not seen and (package.on_pypi or importlib.util.find_spec(root) is None):
        return f"{package.distribution} is not installed"
    if not package.names:
        return f"its switch is set in each of its processes: see docs/integrations/{package.page}"
    other = f"; tested with {package.tested}" if seen not in ("", package.tested) else ""
    return f"not asked for in this process: {package.switch.replace('`', '')}{other}"


def __getattr__(name: str) -> Any:
    if name in PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
