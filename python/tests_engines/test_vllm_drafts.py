"""draws of the contract with speculative decoding: what is drawn is what would have been drawn without drafts."""

import os
import subprocess
import sys
from pathlib import Path

import drafts
import expected
import numpy as np
import pytest
import torch

SEED = 7


def recorded_of(model, count, folder, runner="v1"):
    command = [sys.executable, Path(drafts.__file__), model, str(count), folder / str(count), runner]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(folder / str(count))


@pytest.fixture(scope="module")
def recorded(model, tmp_path_factory):
    return recorded_of(model, 3, tmp_path_factory.mktemp("drafts"))


def steps_of(run, output):
    return [step for step in run["steps"] if step["request"].rsplit("-", 1)[0] == output["request"]]


def wrong(run, case):
    """Tokens that are not the contract's draws, and logprobs that are not those over what the cuts leave. Penalties
    are vLLM's and not made again here."""
    found, count = [], 0
    temperature = np.float32(case["temperature"])
    cuts = {name: case[name] for name in ("top_k", "top_p") if name in case}
    for output in run["outputs"]:
        tokens, done = output["tokens"], 0
        for step in steps_of(run, output):
            draws = []
            for row in step["rows"].numpy():
                position = output["prompt"] + done + len(draws)
                z = row / temperature if temperature > 0 else row
                kept = expected.cut(z, **cuts) if temperature > 0 else np.arange(len(z))
                draws.append(expected.draw(z, kept, SEED, output["index"], position) if temperature > 0 else z.argmax())
                if done + len(draws) <= len(tokens) and len(draws) <= len(step["taken"]):
                    left = np.full_like(z, -np.inf)
                    left[kept] = z[kept]
                    returned = output["logprobs"][done + len(draws) - 1]
                    right = expected.log_softmax(left, list(returned))
                    if expected.bits(list(returned.values())) != expected.bits(right):
                        found.append(f"{returned}, not {right}")
                if len(draws) > len(step["draft"]) or draws[-1] != step["draft"][len(draws) - 1]:
                    break
            if step["taken"] != draws:
                found.append(f"{step['taken']} of {step['draft']}, not {draws}")
            done += len(step["taken"])
            count += 1
        if [token for step in steps_of(run, output) for token in step["taken"]][: len(tokens)] != tokens:
            found.append("other tokens")
    assert count > 0
    return found


@pytest.mark.parametrize("name", drafts.CASES.keys() - {"penalties"})
def test_draws(recorded, name):
    run = recorded["runs"][name]
    accepted = [len(step["taken"]) - 1 for step in run["steps"]]
    drafted = [len(step["draft"]) for step in run["steps"]]
    assert 0 < sum(accepted) < sum(drafted)
    assert wrong(run, drafts.CASES[name]) == []


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory):
    return recorded_of(model, 0, tmp_path_factory.mktemp("alone"))


def told(recorded, name):
    return [(one["tokens"], one["logprobs"]) for one in recorded["runs"][name]["outputs"]]


def test_they_are_those_without_drafts(recorded, alone):
    assert recorded["state"]["draws"] == alone["state"]["draws"] == "contract"
    for name in drafts.CASES:
        assert len(recorded["runs"][name]["steps"]) < len(alone["runs"][name]["steps"])
        assert told(recorded, name) == told(alone, name)


def test_so_they_are_in_the_v2_runner(model, alone, tmp_path):
    """Penalties, too, by which each drafted token counts in the rows after it."""
    recorded = recorded_of(model, 3, tmp_path, "v2")
    for name in drafts.CASES:
        assert any(count > 1 for step in recorded["runs"][name]["steps"] for count in step["taken"])
        assert told(recorded, name) == told(alone, name)
    assert told(recorded, drafts.MUTANT) != told(alone, "temperature")


def test_drafts_that_are_not_drawn_would_be_noticed(recorded):
    assert wrong(recorded["runs"][drafts.MUTANT], drafts.CASES["temperature"]) != []
