"""Speculative decoding: logprobs of accepted and of bonus tokens. The last file, since vLLM's start trips over numba,
which it loads here, in a process that starts another engine later."""

import expected
import pytest
from recording import Recording
from vllm import SamplingParams

PROMPT = "the king of the land and the king of the land and the king of the"


@pytest.fixture(scope="module")
def engine(start, model):
    ngram = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    return start(model, {"isologit": {}}, speculative_config=ngram, logprobs_mode="processed_logprobs")


def test_logprobs(engine, tmp_path):
    """Greedy: drawing at a temperature, vLLM 0.32 on the CPU divides drafted rows by memory that it never filled."""
    recording = Recording(engine, tmp_path)
    with recording:
        params = SamplingParams(max_tokens=24, temperature=0, logprobs=3)
        outputs = engine.generate([PROMPT], params, use_tqdm=False)
    completion = outputs[0].outputs[0]
    assert len(recording.steps) < len(completion.token_ids)  # some steps gave more than one token
    rows = [row.numpy() for step in recording.steps for row in step["logits"]]
    for returned in completion.logprobs:
        ids = list(returned)
        values = expected.bits([returned[token].logprob for token in ids])
        assert values in [expected.bits(expected.log_softmax(row, ids)) for row in rows]
