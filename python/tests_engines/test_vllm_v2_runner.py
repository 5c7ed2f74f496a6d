"""vLLM's V2 model runner, running: the logprobs that it returns, and what it draws, are those of the contract."""

import os
import subprocess
import sys
from pathlib import Path

import expected
import numpy as np
import pytest
import torch

import isologit

SCRIPT = Path(__file__).with_name("v2_runner.py")


@pytest.fixture(scope="module", params=["raw_logprobs", "processed_logprobs", "draws"])
def recorded(request, untied_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("v2")
    command = [sys.executable, SCRIPT, untied_model, request.param, folder]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(folder / "recorded") | {"mode": request.param}


def rows_of(run, output, kind):
    """Of each token; a step in the middle of a prompt gives a row, too, and no token."""
    name = output["id"]
    rows = [
        (step["hidden"][i], step[kind][i])
        for step in run["steps"]
        for i, request in enumerate(step["requests"] or [])
        if request.rsplit("-", 1)[0] == name or request == name
    ]
    return rows[-len(output["tokens"]) :]


def wrong(recorded, name):
    found, count = [], 0
    run = recorded["runs"][name]
    kind = "logits" if recorded["mode"] == "raw_logprobs" else "processed"
    for output in run["outputs"]:
        rows = rows_of(run, output, kind)
        for (hidden, final), token, returned in zip(rows, output["tokens"], output["logprobs"], strict=True):
            assert token in returned
            found += wrong_of_row(recorded["weight"], hidden, final, returned, kind == "logits")
            count += len(returned)
    assert count > 0
    return found


def wrong_of_row(weight, hidden, final, returned, is_raw):
    ids, values = list(returned), expected.bits(list(returned.values()))
    right = [expected.bits(expected.log_softmax(final.float().numpy(), ids))]
    if is_raw:
        head = isologit.linear_logprobs(hidden[None], weight, torch.tensor([ids]), vocab_size=len(final))
        right.append(expected.bits(head.logprobs[0]))
    return [f"ids {ids}: {returned}" for one in right if one != values]


def test_it_is_that_runner_and_isologit_is_on(recorded):
    assert recorded["runner"] == "vllm.v1.worker.cpu.model_runner.CPUModelRunner"
    assert recorded["state"]["on"] and recorded["state"]["logprobs"] == "exact"
    assert recorded["state"]["draws"] == ("contract" if recorded["mode"] == "draws" else "engine")


def test_logprobs(recorded):
    names = recorded["runs"].keys() - {"a prompt", "vLLM's own"}
    assert len(names) >= 3
    for name in names:
        assert wrong(recorded, name) == []


def test_logits(recorded):
    weight = recorded["weight"].float().numpy()
    for step in recorded["runs"]["cuts"]["steps"][:3]:
        logits = step["logits"][0]
        right = expected.logits(step["hidden"][0].float().numpy(), weight[: len(logits)])
        assert expected.bits(logits) == expected.bits(right)


def test_logprobs_of_a_prompt(recorded):
    """In chunks of the prompt."""
    if "a prompt" not in recorded["runs"]:
        assert recorded["mode"] != "raw_logprobs"  # of prompts there is nothing to process
        return
    run = recorded["runs"]["a prompt"]
    (output,) = run["outputs"]
    parts = [step for step in run["steps"] if step["requests"] is None]
    assert len(parts) > 1
    rows = [row for part in parts for row in zip(part["hidden"], part["logits"], strict=True)]
    returned = output["prompt_logprobs"][1:]
    assert len(returned) == len(output["prompt"]) - 1
    for (hidden, logits), one in zip(rows, returned, strict=False):  # the last row is of the first new token
        assert wrong_of_row(recorded["weight"], hidden, logits, one, True) == []


def wrong_draws(recorded, name):
    """Tokens that are not the contract's draws of the logits after penalties and temperature, and rows of which its
    cuts leave something else."""
    found, run = [], recorded["runs"][name]
    for output in run["outputs"]:
        greedy = output["params"]["temperature"] == 0
        cuts = {cut: output["params"][cut] for cut in ("min_p", "top_p")} | {"top_k": max(output["params"]["top_k"], 0)}
        pairs = zip(rows_of(run, output, "scaled"), rows_of(run, output, "processed"), output["tokens"], strict=True)
        for i, ((_, scaled), (_, processed), token) in enumerate(pairs):
            z = scaled.float().numpy()
            kept = np.arange(len(z)) if greedy else expected.cut(z, **cuts)
            position = len(output["prompt"]) + i
            right = z.argmax() if greedy else expected.draw(z, kept, recorded["seed"], output["index"], position)
            if token != right:
                found.append(f"token {i} of {output['id']}: {token}, not {right}")
            if sorted(kept.tolist()) != (processed > -torch.inf).nonzero()[:, 0].tolist():
                found.append(f"row {i} of {output['id']} is cut to others")
    return found


def test_draws(recorded):
    if recorded["mode"] != "draws":
        assert wrong_draws(recorded, "cuts") != []  # so that vLLM's own would be noticed
        return
    for name in recorded["runs"]:
        assert wrong_draws(recorded, name) == []


def test_vllms_own_logprobs_would_be_noticed(recorded):
    assert wrong(recorded, "vLLM's own") != []
