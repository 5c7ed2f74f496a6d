"""Rows captured in vLLM: the states that its head was given, and what the engine returned of their tokens."""

import pytest
import torch
from recording import Recording
from vllm import SamplingParams

from isologit import _captured

PROMPTS = ["In the beginning", "And the LORD said unto Moses, Speak unto", "Blessed"]


@pytest.fixture(params=[None, {"isologit": {}}], ids=["vLLM's head", "isologit's head"])
def captured(request, start, model, tmp_path, monkeypatch):
    path = tmp_path / "captured.safetensors"
    monkeypatch.setenv("ISOLOGIT_CAPTURE", str(path))
    engine = start(model, request.param, max_num_batched_tokens=32, enable_chunked_prefill=True, block_size=32)
    return engine, path


def test_rows_and_returned_logprobs(captured, tmp_path):
    engine, path = captured
    recording = Recording(engine, tmp_path)
    long = "And it came to pass in those days that there went out a decree from the king " * 5
    with recording:
        params = SamplingParams(max_tokens=6, temperature=0, logprobs=0, ignore_eos=True)
        outputs = engine.generate([*PROMPTS, long], params, use_tqdm=False)
    assert engine.collective_rpc("isologit_captured") == [24]
    rows = _captured.read(path)
    passed = torch.cat([step["hidden"] for step in recording.steps])
    for hidden in rows["hidden_states"]:
        assert (passed == hidden).all(1).any()
    for output in outputs:
        sequence = [*output.prompt_token_ids, *output.outputs[0].token_ids]
        first = len(output.prompt_token_ids) - 1
        found = []
        for number in set(rows["sequence_ids"].tolist()):
            own = (rows["sequence_ids"] == number).nonzero()[:, 0]
            own = own[rows["positions"][own].argsort()]
            places = rows["positions"][own].tolist()
            if places == list(range(first, first + 6)) and rows["token_ids"][own].tolist() == sequence[first + 1 :]:
                found.append(own)
        assert len(found) == 1
        steps = zip(output.outputs[0].logprobs, sequence[first + 1 :], strict=True)
        returned = [step[token].logprob for step, token in steps]
        assert rows["logprobs"][found[0]].tolist() == returned
