"""examples/grpo in short: TRL trains, vLLM rolls out, and the mismatch of every step is what the example says."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("trl") is None:  # not imported here: it quiets vLLM's log for all that comes after
    pytest.skip("trl is not installed", allow_module_level=True)
FOLDER = Path(__file__).resolve().parents[2] / "examples" / "grpo"
STEPS, TOKENS = 3, 1024  # TOKENS of each step


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    steps = tmp_path_factory.mktemp("grpo") / "steps.json"
    command = [sys.executable, FOLDER, "--steps", str(STEPS), "--json", steps]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "isologit, whole model" in done.stdout
    return json.loads(steps.read_text())


def steps_of(result):
    (history,) = result["histories"]
    assert [step["tokens"] for step in history] == [TOKENS] * STEPS
    return history


def test_every_logprob_of_isologits_is_counted_and_no_other(results):
    assert list(results) == ["bf16", "f32", "isologit", "isologit-model"]
    for name, result in results.items():
        on = name.startswith("isologit")
        assert (result["vllm_rows"], result["trl_forwards"]) == ((STEPS * TOKENS, STEPS) if on else (0, 0))


def test_with_isologits_heads_the_mismatch_is_the_bodys(results):
    for step in steps_of(results["isologit"]):
        assert step["head_kl"] == 0
        assert step["kl"] == step["body_kl"] > 1e-5 and step["different"] > TOKENS // 2


def test_with_isologits_model_there_is_none(results):
    for step in steps_of(results["isologit-model"]):
        assert [step[key] for key in ("kl", "body_kl", "head_kl", "outside", "largest", "different")] == [0] * 6


def test_stock_heads_are_what_isologit_takes_them_for(results):
    """f32 heads of vLLM and TRL are nearly right, bf16 ones are not."""
    for f32, bf16 in zip(steps_of(results["f32"]), steps_of(results["bf16"]), strict=True):
        assert abs(f32["head_kl"]) < 1e-8 < 1e-5 < bf16["head_kl"]
        assert f32["different"] > TOKENS // 2


def test_each_engine_rolls_out_with_the_weights_that_the_trainer_has(results):
    """A head that missed the first updates alone makes it 4e-4 in the second step, and 1e-3 in the third."""
    for result in results.values():
        assert max(step["kl"] for step in steps_of(result)) < 3e-4


def test_the_rewards_are_of_a_policy_that_samples(results):
    for result in results.values():
        assert all(0.005 < step["reward"] < 0.3 for step in steps_of(result))


@pytest.fixture
def mismatch(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("mismatch")


LOGPROBS = torch.tensor([[-1.5, -0.25], [-7.0, -2.0**-30]])
NEXT = torch.nextafter(LOGPROBS, torch.tensor(0.0))  # one bit off
ONE_OFF = torch.where(torch.tensor([[False, True], [False, False]]), NEXT, LOGPROBS)


@pytest.mark.parametrize(
    ("scope", "logprobs", "wrong"),
    [
        ("head", [ONE_OFF, LOGPROBS, NEXT, NEXT], "scope head: 1 of 4 logprobs differ between those that vLLM reports"),
        ("head", [LOGPROBS, LOGPROBS, NEXT, LOGPROBS], "scope head: 4 of 4 logprobs differ between the trainer's"),
        ("model", [LOGPROBS, LOGPROBS, ONE_OFF, ONE_OFF], "scope model: 1 of 4 .* the trainer's and those that vLLM"),
    ],
)
def test_one_bit_that_is_off_ends_the_run(mismatch, scope, logprobs, wrong):
    with pytest.raises(RuntimeError, match=wrong):
        mismatch.check(scope, mismatch.Logprobs(*logprobs))


def test_what_is_measured(mismatch):
    """The body moves one token by ln 2, the engine's head another by -ln 2."""
    right = torch.full((1, 4), -1.0)
    reported, trained = right.clone(), right.clone()
    reported[0, 0] -= 0.6931471806
    trained[0, 3] += 0.6931471806
    step = mismatch.measure(mismatch.Logprobs(reported, right, trained, trained), reward=0.5)
    k3 = (2 - 1 - 0.6931471806) / 4
    assert step[:4] == pytest.approx((0.5, 2 * k3, k3, k3), rel=1e-6)
    assert step[4:] == (0.5, pytest.approx(0.6931471806, rel=1e-6), 2, 4)
    mismatch.check("head", mismatch.Logprobs(right, right, trained, trained))
    mismatch.check("", mismatch.Logprobs(reported, right, trained, right))
