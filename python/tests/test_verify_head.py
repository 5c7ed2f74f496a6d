"""isologit.testing.verify_head: a right head has every property, and of each property there is a head without it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from fractions import Fraction
from pathlib import Path

import expected
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import isologit  # noqa: E402
from isologit.testing import verify_head  # noqa: E402
from isologit.testing._arrays import Output, output_of  # noqa: E402
from isologit.testing._checks import CHECKS  # noqa: E402
from isologit.testing._right import ulps  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SMALL = (12, 67, 24)


def logits(hidden, weight):
    return isologit.logits(hidden, weight, gradients="exact")


def logprobs(hidden, weight, token_ids):
    return isologit.linear_logprobs(hidden, weight, token_ids, gradients="exact").logprobs


def log_softmax(hidden, weight):
    return isologit.log_softmax(logits(hidden, weight))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("fn, gives", [(logits, "logits"), (logprobs, "logprobs"), (log_softmax, "log_softmax")])
def test_our_heads_have_every_property(fn, gives, dtype):
    verdict = verify_head(fn, dtype=dtype, shape=SMALL)
    assert verdict, verdict.table()
    assert verdict.gives == gives and verdict.result_dtype == "f32"
    asked = {check.property for check in verdict.checks if check.holds}
    assert set(CHECKS) - asked == ({"not above 0"} if gives == "logits" else {"shards"})
    assert all(check.compared > 0 for check in verdict.checks if check.holds)
    assert verdict["right"].figures["results"]["share right"] == 1


def nudged(z, where):
    """z, its elements one ulp up where told."""
    return torch.where(where, torch.nextafter(z, torch.full_like(z, torch.inf)), z)


def everywhere(z):
    return torch.ones_like(z, dtype=torch.bool)


def of_batch_size(hidden, weight):
    z = logits(hidden, weight)
    return nudged(z, everywhere(z)) if len(hidden) in (2, 3) else z


def of_place(hidden, weight):
    z = logits(hidden, weight)
    return nudged(z, torch.arange(len(z))[:, None] == 4) if len(z) == SMALL[0] else z


def of_more_rows(hidden, weight):
    z = logits(hidden, weight)
    return nudged(z, everywhere(z)) if len(z) > SMALL[0] else z


def of_greatest_row(hidden, weight):
    z = logits(hidden, weight)
    return nudged(z, everywhere(z)) if hidden.isfinite().all() and hidden.abs().max() > 100 else z


def of_first_row(hidden, weight):
    z = logits(hidden, weight)
    return nudged(z, everywhere(z)) if len(z) == SMALL[0] and hidden[0].abs().max() < hidden[-1].abs().max() else z


def of_chunks(hidden, weight):
    z = logits(hidden, weight)
    return nudged(z, everywhere(z)) if len(z) == 7 else z


def of_threads(hidden, weight):
    z = logits(hidden, weight)
    return nudged(z, everywhere(z)) if torch.get_num_threads() == 3 else z


def of_vocabulary(hidden, weight):
    z = logits(hidden, weight)
    return nudged(z, everywhere(z)) if z.shape[1] == 1 else z


def writes_hidden(hidden, weight):
    z = logits(hidden, weight)
    hidden.data[0, 0] = 0
    return z


def writes_weight(hidden, weight):
    z = logits(hidden, weight)
    weight.data[3, 1] += 1
    return z


class Counting:
    """Another result every time."""

    __name__ = __qualname__ = "counting"
    calls = 0

    def __call__(self, hidden, weight):
        self.calls += 1
        return logits(hidden, weight) + self.calls


class Caching:
    """Keeps what it made of the weight, by the tensor itself."""

    def __init__(self):
        self.copies = {}

    def __call__(self, hidden, weight):
        key = (weight.data_ptr(), weight.shape)
        if key not in self.copies:
            self.copies = {key: (weight, weight.clone())}
        return logits(hidden, self.copies[key][1])


class CachingByVersion(Caching):
    """As before, but for writes that autograd counts."""

    def __call__(self, hidden, weight):
        key = (weight.data_ptr(), weight._version)
        if key not in self.copies:
            self.copies = {key: (weight, weight.detach().clone())}
        return logits(hidden, self.copies[key][1])


def spreads_nan(hidden, weight):
    z = logits(hidden, weight)
    return z + 0 * z.sum()


def hides_nan(hidden, weight):
    return logits(hidden, weight).nan_to_num()


def above_zero(hidden, weight, token_ids):
    return logprobs(hidden, weight, token_ids) + 1e-6


def one_ulp_off(hidden, weight):
    z = logits(hidden, weight)
    return nudged(z, torch.arange(z.shape[1]) == 40)


def gradient_of_batch(hidden, weight):
    # The same values; a gradient that is a third larger where there are many rows.
    z = logits(hidden, weight)
    return z.detach() + (z - z.detach()) * (1 + 1 / 3) if len(z) == SMALL[0] else z


def gradient_is_wrong(hidden, weight):
    z = logits(hidden, weight)
    return z.detach() + (z - z.detach()) * 1.001


def gradient_is_lost(hidden, weight):
    return logits(hidden, weight.detach())


MUTANTS = [
    ("slices", of_batch_size),
    ("position", of_place),
    ("padding", of_more_rows),
    ("neighbours", of_greatest_row),
    ("permutation", of_first_row),
    ("chunks", of_chunks),
    ("threads", of_threads),
    ("shards", of_vocabulary),
    ("purity", writes_hidden),
    ("purity", writes_weight),
    ("purity", Counting()),
    ("weight update", Caching()),
    ("weight update", CachingByVersion()),
    ("nan", spreads_nan),
    ("nan", hides_nan),
    ("not above 0", above_zero),
    ("right", one_ulp_off),
    ("gradient slices", gradient_of_batch),
    ("right gradients", gradient_is_wrong),
    ("right gradients", gradient_is_lost),
]


def test_each_property_has_a_mutant():
    assert {name for name, _ in MUTANTS} == set(CHECKS)


@pytest.mark.parametrize("name, fn", MUTANTS, ids=lambda one: getattr(one, "__name__", None) or str(one)[:30])
def test_mutants_are_caught(name, fn):
    verdict = verify_head(fn, gives="logprobs" if name == "not above 0" else "logits", shape=SMALL, dtype="float32",
                          properties=[name])
    assert verdict.failed == [name], verdict.table()
    check = verdict[name]
    assert check.wrong > 0 and check.first is not None and check.told()


def test_the_first_mismatch_is_named():
    verdict = verify_head(one_ulp_off, shape=SMALL, properties=["right", "slices"])
    first = verdict["right"].first
    assert first["at"] == [0, 40] and int(first["found"], 16) - int(first["expected"], 16) in (1, -1)
    assert f"at [0, 40]: {first['found']}, expected {first['expected']}" in verdict.table()
    assert verdict["right"].wrong == SMALL[0] and verdict.failed == ["right"]
    assert verdict["right"].figures["results"]["share right"] == pytest.approx(1 - 1 / SMALL[1])
    assert verdict["right"].figures["results"]["max ulps"] == 1


def test_the_right_answers_are_right():
    """Against rational arithmetic, of each type; and the ulps by hand."""
    for dtype in ("bfloat16", "float16", "float32"):
        kind = getattr(torch, dtype)
        verdict = verify_head(lambda h, w, kind=kind: expected.logits(h, w, dtype=kind), dtype=dtype, gives="logits",
                              shape=(8, 9, 6), properties=["right"])
        assert verdict, verdict.table()
    right = output_of(np.array([1.0, -2.0, 0.5, 2.0**-140, 3.0], np.float32))
    found = output_of(np.array([1.0, -2.0 + 2.0**-22, 0.5 + 2.0**-22, 2.0**-140 + 2.0**-149, 3.0], np.float32))
    assert ulps(found, right) == {"share right": 0.4, "mean ulps": (1 + 4 + 1) / 5, "max ulps": 4.0}
    assert ulps(Output(np.array([0x3F81], np.uint16), "bf16"), Output(np.array([0x3F80], np.uint16), "bf16"))[
        "max ulps"
    ] == 1
    assert Fraction(float(output_of(torch.tensor([1.0]).bfloat16()).values[0])) == 1


def test_usual_heads_fall_where_they_must():
    """bf16 logits are far from the right logprobs, f32 ones near; both are what they are said to be."""
    from torch.nn import functional as F

    def bf16(hidden, weight):
        return F.linear(hidden, weight).float().log_softmax(-1)

    def f32(hidden, weight):
        return F.linear(hidden.float(), weight.float()).log_softmax(-1)

    errors = [verify_head(fn, properties=["right"])["right"].figures["results"]["mean error"] for fn in (bf16, f32)]
    assert errors[0] > 1e-3 and errors[1] < 1e-5


def test_numpy_heads():
    def product(hidden, weight):
        return hidden @ weight.T

    def right(hidden, weight):
        return isologit.logits(hidden, weight)

    names = [name for name in CHECKS if name != "threads"]  # which need threadpoolctl
    verdict = verify_head(right, arrays="numpy", dtype="float32", shape=SMALL, properties=names)
    assert verdict, verdict.table()
    assert verdict["right gradients"].holds is None
    assert not verify_head(product, arrays="numpy", dtype="float32", properties=["right"])

    class Cached:
        kept = None

        def __call__(self, hidden, weight):
            self.kept = weight.copy() if self.kept is None or self.kept.shape != weight.shape else self.kept
            return isologit.logits(hidden, self.kept)

    assert not verify_head(Cached(), gives="logits", arrays="numpy", dtype="float32", shape=SMALL,
                           properties=["weight update"])


def test_what_a_head_raises_is_told():
    def one_row_only(hidden, weight):
        if len(hidden) == 1:
            raise RuntimeError("no rows")
        return logits(hidden, weight)

    verdict = verify_head(one_row_only, shape=SMALL, properties=["slices", "padding"])
    assert verdict.failed == ["slices"] and "raised RuntimeError: no rows" in verdict.table()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dtype": "float8"}, "dtype: 'float8'; expected one of bfloat16, float16, float32 for torch"),
        ({"gives": "ids"}, "gives: 'ids'; expected one of logits, log_softmax, logprobs"),
        ({"arrays": "jax"}, "arrays: 'jax'; expected torch or numpy"),
        ({"arrays": "numpy"}, "dtype: 'bfloat16'; expected one of float16, float32 for numpy"),
        ({"shape": (4, 9, 9)}, "shape: .*; expected .N, V, H."),
        ({"properties": ["speed"]}, "properties: 'speed' is unknown; known are slices"),
        ({"gives": "logprobs"}, "the head gave logprobs of shape .*; expected"),
    ],
)
def test_refusals(options, message):
    fn = (lambda h, w, i: logits(h, w)) if options.get("gives") == "logprobs" else logits
    with pytest.raises(ValueError, match=message):
        verify_head(fn, **({"shape": SMALL} | options))


def rows_of(text: str) -> dict[str, list[str]]:
    """The rows of a table of heads by their names."""
    lines = text.split("| head | batch ")[1].split("\n\n")[0].splitlines()[2:]
    return {row[0]: row[1:] for row in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


# What scripts/verdicts says of those that the page has as not here.
NOT_HERE = {"CCE `linear_cross_entropy`, its kernels": r"not here: InterpreterError: .*AttributeError.*"}


@pytest.mark.parametrize(
    "package, heads",
    [
        ("torch", ["torch", "`lm_head`", "the same", "bf16", "f32", "isologit"]),
        ("liger_kernel", ["Liger"]),
        ("cut_cross_entropy", ["CCE"]),
        ("verl", ["verl"]),
        ("trl", ["TRL"]),
    ],
)
def test_the_table_of_heads(package, heads):
    """Made again of what is installed. Heads whose sums have an order of their own are the page's to the letter, on
    every processor; the others are as far off as it says, and as pure; what does not run here
    says why. vLLM's is made in the tests of engines."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    shown = rows_of((ROOT / "docs/testing_heads.md").read_text())
    command = [sys.executable, ROOT / "scripts/verdicts", *heads]
    found = rows_of(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert list(found) == [name for name in shown if name.startswith(tuple(heads))]
    for name, cells in found.items():
        page = shown[name]
        if name.startswith("isologit"):
            assert cells == page
        elif name.startswith(("`lm_head`", "the same")):
            assert cells[:4] == page[:4]
        elif page[0].startswith("not here: "):
            assert re.fullmatch(NOT_HERE[name], cells[0]), cells
        else:
            assert 0.4 < float(cells[3]) / float(page[3]) < 2.5, cells
            for of in ("purity", "weight update", "nan", "not above 0"):
                assert of not in cells[1].split(", "), cells


def test_the_page_has_every_head():
    names = re.findall(r'^    "(.*)": \w+,$', (ROOT / "scripts/verdicts").read_text(), flags=re.MULTILINE)
    assert list(rows_of((ROOT / "docs/testing_heads.md").read_text())) == names


HEADS = "import isologit, torch\ndef right(h, w): return isologit.logits(h, w)\ndef wrong(h, w): return h @ w.T\n"


def run(tmp_path, *arguments):
    (tmp_path / "heads.py").write_text(HEADS)
    command = [sys.executable, "-m", "isologit", "verify", *arguments, "--shape", "12,67,24"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ)


def test_the_command(tmp_path):
    right = run(tmp_path, "--head", "heads:right", "--properties", "slices,right,shards")
    assert right.returncode == 0 and "heads:right: logits in f32" in right.stdout and right.stderr == ""
    wrong = run(tmp_path, "--head=heads:wrong", "--dtype", "float32", "--properties", "right,not above 0", "--json",
                "--junit", "verdict.xml")
    assert wrong.returncode == 1, wrong.stderr
    told = json.loads(wrong.stdout)
    assert told["holds"] is False and [one["holds"] for one in told["checks"]] == [False, None]
    suite = ElementTree.parse(tmp_path / "verdict.xml").getroot()
    assert suite.attrib["tests"] == "2" and suite.attrib["failures"] == "1" and suite.attrib["skipped"] == "1"
    assert suite.find("testcase/failure").get("message").startswith("results ")
    for arguments in (["--head", "heads"], ["--head", "heads:none"], ["--head", "nowhere:fn"]):
        assert run(tmp_path, *arguments).returncode == 2
    unknown = run(tmp_path, "--head", "heads:right", "--dtype", "int8")
    assert unknown.returncode == 1 and unknown.stderr.startswith("isologit: dtype: 'int8'; expected")


pytest_plugins = ["pytester"]


def test_the_plugin(pytester):
    pytester.makepyfile(
        HEADS
        + "def test_right(verify_head): assert verify_head(right, shape=(12, 67, 24), properties=['slices'])\n"
        + "def test_wrong(verify_head): verify_head(wrong, dtype='float32', shape=(12, 67, 24), properties=['right'])\n"
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*right*NO*results *% right*"])
