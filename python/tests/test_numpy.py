"""isologit.score on numpy arrays, without torch."""

import subprocess
import sys

import numpy as np
import pytest

import isologit

ml_dtypes = pytest.importorskip("ml_dtypes")
ELSEWHERE = ("torch", "cuda", "cuda_fast")  # kernels that take tensors alone


def f64_log_softmax(z):
    z = z.astype(np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def bf16(rng, *shape):
    return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)


def test_importing_and_scoring_does_not_import_torch():
    code = (
        "import sys, numpy as np, isologit\n"
        "isologit.score(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), [0, 1])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_all_outputs_against_float64(rng):
    hidden, weight, ids = bf16(rng, 6, 32), bf16(rng, 100, 32), rng.integers(0, 100, 6)
    got = isologit.score(
        hidden,
        weight,
        ids,
        top_k=3,
        outputs=("logprobs", "lse", "entropy", "argmax", "rank", "raw_logprobs", "sum_p2", "log_kept"),
    )
    z = hidden.astype(np.float64) @ weight.astype(np.float64).T  # bf16 products and 32 of them are exact in f64
    z = z.astype(np.float32)
    p = f64_log_softmax(z)
    rows = np.arange(6)
    np.testing.assert_array_equal(got.argmax, z.argmax(-1))
    np.testing.assert_array_equal(got.rank, (z > z[rows, ids][:, None]).sum(-1) + 1)
    np.testing.assert_array_equal(got.top_k_ids, np.argsort(-z, axis=-1, kind="stable")[:, :3])
    np.testing.assert_array_equal(got.log_kept, np.zeros(6, np.float32))
    np.testing.assert_array_equal(got.raw_logprobs, got.logprobs)
    for value, expected in (
        (got.logprobs, p[rows, ids]),
        (got.entropy, -(np.exp(p) * p).sum(-1)),
        (got.lse, z[:, 0] - p[:, 0]),
        (got.sum_p2, np.exp(2 * p).sum(-1)),
        (got.top_k_logprobs, np.take_along_axis(p, got.top_k_ids, -1)),
    ):
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, expected, rtol=2.0**-24 * 1.001, atol=0)
    assert got.report.rows == 6


def test_uint16_holds_bf16(rng):
    hidden, weight, ids = bf16(rng, 4, 8), bf16(rng, 9, 8), rng.integers(0, 9, 4)
    plain = isologit.score(hidden, weight, ids).logprobs
    as_bits = isologit.score(hidden.view(np.uint16), weight.view(np.uint16), ids, dtype="bf16").logprobs
    np.testing.assert_array_equal(plain.view(np.uint32), as_bits.view(np.uint32))
    with pytest.raises(ValueError, match="dtype is uint16; expected"):
        isologit.score(hidden.view(np.uint16), weight, ids)


def test_shapes_and_strides(rng):
    hidden, weight, ids = bf16(rng, 2, 3, 8), bf16(rng, 9, 8), rng.integers(0, 9, (2, 3))
    got = isologit.score(hidden, weight, ids, top_k=4, outputs=("logprobs", "argmax"))
    assert got.logprobs.shape == got.argmax.shape == (2, 3) and got.top_k_ids.shape == (2, 3, 4)
    wide = np.zeros((9, 20), ml_dtypes.bfloat16)
    wide[:, 3:11] = weight
    np.testing.assert_array_equal(isologit.score(hidden, wide[:, 3:11], ids).logprobs, got.logprobs)
    np.testing.assert_array_equal(isologit.score(hidden, weight[::-1], 8 - ids).logprobs, got.logprobs)
    np.testing.assert_array_equal(isologit.score(np.asfortranarray(hidden), weight, ids).logprobs, got.logprobs)
    with pytest.raises(ValueError, match="weight: strides are .* read in place and not copied"):
        isologit.score(hidden, np.asfortranarray(weight), ids)
    assert isologit.score(hidden[:, :0], weight, ids[:, :0]).logprobs.shape == (2, 0)


def test_mask_is_the_same_as_lists(rng):
    hidden, weight, ids = bf16(rng, 5, 8), bf16(rng, 12, 8), rng.integers(0, 12, 5)
    z = (hidden.astype(np.float64) @ weight.astype(np.float64).T).astype(np.float32)
    for share in (0.2, 0.8):
        mask = rng.random((5, 12)) < share
        mask[np.arange(5), ids] = True
        expected = f64_log_softmax(np.where(mask, z, -np.inf))[np.arange(5), ids]
        got = isologit.score(hidden, weight, ids, mask=mask).logprobs
        np.testing.assert_allclose(got, expected, rtol=2.0**-24 * 1.001, atol=0)
        kept = isologit.score(hidden, weight, ids, kept=[np.flatnonzero(m)[::-1] for m in mask]).logprobs
        banned = isologit.score(hidden, weight, ids, banned=[np.flatnonzero(~m) for m in mask]).logprobs
        np.testing.assert_array_equal(got, kept)
        np.testing.assert_array_equal(got, banned)
    with pytest.raises(ValueError, match="kept: 2 lists of ids; expected one for each of the 5 rows"):
        isologit.score(hidden, weight, ids, kept=[[1], [2]])


def test_errors_are_the_usual_kinds(rng):
    hidden, weight = bf16(rng, 2, 8), bf16(rng, 9, 8)
    with pytest.raises(ValueError, match=r"token_ids\[1\].*9"):
        isologit.score(hidden, weight, [0, 9])
    with pytest.raises(ValueError, match="float64; expected float32"):
        isologit.score(hidden.astype(np.float64), weight, [0, 1])
    with pytest.raises(ValueError, match="temperature"):
        isologit.score(hidden, weight, [0, 1], temperature=0.0)
    with pytest.raises(ValueError, match="at most one"):
        isologit.score(hidden, weight, [0, 1], scale=2.0, divide=2.0)
    with pytest.raises(ValueError, match="kernel: 'fastest' is unknown"):
        isologit.score(hidden, weight, [0, 1], kernel="fastest")
    with pytest.raises(ValueError, match="'logprobs' needs token_ids"):
        isologit.score(hidden, weight)
    with pytest.raises(ValueError, match="'probs'; expected names"):
        isologit.score(hidden, weight, [0, 1], outputs=("probs",))


def test_every_kernel_that_runs_gives_the_same_bits(rng):
    hidden, weight, ids = bf16(rng, 3, 16), bf16(rng, 40, 16), rng.integers(0, 40, 3)
    kernels = [kernel for kernel in isologit.kernels() if kernel.runnable and kernel.name not in ELSEWHERE]
    exact = [kernel.name for kernel in kernels if kernel.arithmetic == "exact"]
    results = {name: isologit.score(hidden, weight, ids, kernel=name) for name in exact}
    assert {"portable", "reference"} <= set(results)
    for name, scores in results.items():
        assert scores.report.kernel == name
        np.testing.assert_array_equal(scores.logprobs.view(np.uint32), results["reference"].logprobs.view(np.uint32))
    for kernel in kernels:
        if kernel.arithmetic == "exact":
            continue
        fast = isologit.score(hidden, weight, ids, kernel=kernel.name, arithmetic="fast")
        assert (fast.report.kernel, fast.report.arithmetic) == (kernel.name, "fast")
        np.testing.assert_allclose(fast.logprobs, results["reference"].logprobs, rtol=1e-5)
    with pytest.raises(NotImplementedError, match="fast arithmetic; exact was asked for"):
        isologit.score(hidden, weight, ids, kernel="portable_fast")
    with pytest.raises(ValueError, match="arithmetic is 'f64'; expected 'exact' or 'fast'"):
        isologit.score(hidden, weight, ids, arithmetic="f64")
