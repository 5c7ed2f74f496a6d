"""verify_head, and its verdict as a table, JSON and JUnit."""

import inspect
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from isologit.testing._arrays import DTYPES, Head, Output, torch_is_imported
from isologit.testing._checks import ASK_WHAT_IT_GIVES, CHECKS
from isologit.testing._data import Data
from isologit.testing._right import NotAsked

GIVES = ("logits", "log_softmax", "logprobs")


@dataclass
class Check:
    """Of one property. first: the first mismatch: what was done, at which place, both bit patterns."""

    property: str
    what: str
    holds: bool | None = None  # None: it says nothing of this head; why_not tells why
    compared: int = 0
    wrong: int = 0
    first: dict[str, Any] | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    why_not: str = ""

    def told(self) -> str:
        """The first mismatch, or figures, in a line."""
        if self.holds is None:
            return self.why_not
        parts = [_figures(name, figures) for name, figures in self.figures.items()]
        if self.first is not None:
            place = "" if self.first["at"] is None else f" at {self.first['at']}"
            bits = "" if self.first["found"] is None else f": {self.first['found']}"
            expected = "" if self.first["expected"] is None else f", expected {self.first['expected']}"
            parts.append(f"{self.first['what']}{place}{bits}{expected}")
        return "; ".join(parts)


def _figures(name: str, figures: dict[str, Any]) -> str:
    numbers = {key: "inf" if value is None else f"{value:.2g}" for key, value in figures.items()}
    text = f"{name} {100 * figures['share right']:.4g} % right"
    text += f", ulps mean {numbers['mean ulps']} max {numbers['max ulps']}"
    if "mean error" in numbers:
        text += f", error mean {numbers['mean error']} max {numbers['max error']}"
    return text


@dataclass
class Verdict:
    """What verify_head finds; true if every property that was asked holds."""

    head: str
    gives: str
    dtype: str
    result_dtype: str
    device: str
    shape: tuple[int, int, int]
    checks: list[Check]

    def __bool__(self) -> bool:
        return all(check.holds is not False for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.property == name)

    @property
    def failed(self) -> list[str]:
        return [check.property for check in self.checks if check.holds is False]

    def table(self) -> str:
        rows = [("property", "holds", "compared", "differ", "first mismatch")]
        for check in self.checks:
            holds = {True: "yes", False: "NO", None: "-"}[check.holds]
            rows.append((check.property, holds, str(check.compared), str(check.wrong), check.told()))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
        n, v, h = self.shape
        title = f"{self.head}: {self.gives} in {self.result_dtype} of {self.dtype} on {self.device}, N {n} V {v} H {h}"
        return "\n".join([title, "", *(line.rstrip() for line in lines)])

    def json(self) -> str:
        return json.dumps({"holds": bool(self)} | asdict(self), indent=2)

    def junit(self) -> str:
        """A test suite of one test a property."""
        suite = ElementTree.Element(
            "testsuite",
            name=f"isologit verify {self.head}",
            tests=str(len(self.checks)),
            failures=str(len(self.failed)),
            skipped=str(sum(check.holds is None for check in self.checks)),
        )
        for check in self.checks:
            case = ElementTree.SubElement(suite, "testcase", classname=self.head, name=check.property)
            if check.holds is None:
                ElementTree.SubElement(case, "skipped", message=check.why_not)
            elif not check.holds:
                ElementTree.SubElement(case, "failure", message=check.told())
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def verify_head(
    fn: Callable[..., Any],
    *,
    gives: str | None = None,
    dtype: str = "bfloat16",
    device: str = "cpu",
    arrays: str | None = None,
    shape: tuple[int, int, int] = (24, 1031, 512),
    properties: Iterable[str] | None = None,
) -> Verdict:
    """Tries a head on small data and tells which properties it has, bit for bit.

    Parameters
    ----------
    fn : callable
        fn(hidden [N, H], weight [V, H]) gives logits [N, V] or log-probabilities [N, V] of all ids; fn(hidden, weight,
        token_ids [N]) gives logprobs [N] of these ids.
    gives : {"logits", "log_softmax", "logprobs"}, optional
        Which of the three; by default as the number of arguments and the results themselves say.
    dtype : {"bfloat16", "float16", "float32"}
        Of hidden and weight.
    device : str
        Of tensors: "cpu", "cuda", ...
    arrays : {"torch", "numpy"}, optional
        What fn takes; default torch where it is imported.
    shape : (N, V, H)
    properties : names of checks, optional
        Those alone.

    Returns
    -------
    Verdict
        True if every property holds. `.table()`, `.json()`, `.junit()`; `.checks`, `["slices"]`, `.failed`.
    """
    names = list(CHECKS) if properties is None else list(properties)
    if unknown := [name for name in names if name not in CHECKS]:
        raise ValueError(f"properties: {unknown[0]!r} is unknown; known are {', '.join(CHECKS)}")
    arrays = arrays or ("torch" if torch_is_imported() else "numpy")
    _check(gives, dtype, arrays, shape)
    head = Head(fn, dtype, device if arrays == "torch" else "cpu", arrays, _takes_ids(fn, gives))
    data = Data.make(shape, dtype)
    whole = head(data.hidden, data.weight, data.ids)
    gives = gives or _what_it_gives(whole, head.takes_ids, shape)
    expected = (shape[0],) if gives == "logprobs" else shape[:2]
    if whole.bits.shape != expected:
        raise ValueError(f"the head gave {gives} of shape {whole.bits.shape}; expected {expected}")
    checks = [_run(name, head, data, whole, gives) for name in names]
    name = f"{getattr(fn, '__module__', '?')}:{getattr(fn, '__qualname__', type(fn).__name__)}"
    return Verdict(name, gives, dtype, whole.dtype, head.device, tuple(shape), checks)


def _check(gives: str | None, dtype: str, arrays: str, shape: tuple[int, int, int]) -> None:
    if gives is not None and gives not in GIVES:
        raise ValueError(f"gives: {gives!r}; expected one of {', '.join(GIVES)}")
    if arrays not in ("torch", "numpy"):
        raise ValueError(f"arrays: {arrays!r}; expected torch or numpy")
    known = [name for name in DTYPES if name != "float64" and (arrays == "torch" or name != "bfloat16")]
    if dtype not in known:
        raise ValueError(f"dtype: {dtype!r}; expected one of {', '.join(known)} for {arrays}")
    if len(shape) != 3 or shape[0] < 8 or shape[1] < 8 or shape[2] < 2:
        raise ValueError(f"shape: {shape}; expected (N, V, H), N and V at least 8, H at least 2")


def _takes_ids(fn: Callable[..., Any], gives: str | None) -> bool:
    if gives is not None:
        return gives == "logprobs"
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        raise ValueError("gives: what the head takes cannot be read off it; name what it gives") from None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in kinds and one.default is one.empty for one in parameters) >= 3


def _what_it_gives(whole: Output, takes_ids: bool, shape: tuple[int, int, int]) -> str:
    if takes_ids:
        return "logprobs"
    if whole.bits.shape != shape[:2]:
        return "logits"
    mass = np.exp(np.minimum(whole.values, 1.0)).sum(-1)
    return "log_softmax" if np.all(np.abs(mass - 1) < 0.1) else "logits"


def _run(name: str, head: Head, data: Data, whole: Output, gives: str) -> Check:
    what, compare = CHECKS[name]
    check = Check(name, what)
    try:
        made = compare(head, data, whole, gives) if name in ASK_WHAT_IT_GIVES else compare(head, data, whole)
    except NotAsked as why:
        check.why_not = str(why)
        return check
    except Exception as error:  # the head's own
        check.holds, check.wrong = False, 1
        check.first = {"what": f"raised {type(error).__name__}: {error}", "at": None, "found": None, "expected": None}
        return check
    check.holds, check.compared, check.wrong = made.wrong == 0, made.compared, made.wrong
    check.first, check.figures = made.first, made.figures
    return check
