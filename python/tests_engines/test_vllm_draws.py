"""draws of the contract: every token is the draw of CONTRACT.md 4 from the logits that the sampler ended with, whatever
it was batched, chunked or preempted with."""

import logging
import types

import expected
import numpy as np
import pytest
from recording import Recording
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams

PROMPTS = ["In the beginning", "And the LORD said unto Moses, Speak unto", "Blessed", "The words of the king and"]
LONG = "And it came to pass in those days, that there went out a decree from the king, that all the people " * 3
SEED = 2**63 + 5


@pytest.fixture(scope="module")
def engine(start, untied_model):
    """Prompts in chunks of 32 tokens, and blocks for a few requests only, so that some are preempted."""
    few = {
        "max_num_batched_tokens": 32,
        "enable_chunked_prefill": True,
        "block_size": 32,
        "num_gpu_blocks_override": 12,
    }
    option = {"isologit": {"draws": "contract"}}
    return start(untied_model, option, logprobs_mode="processed_logprobs", enable_prefix_caching=False, **few)


@pytest.fixture
def recording(engine, tmp_path):
    return Recording(engine, tmp_path)


def generate(engine, recording, prompts, params):
    with recording:
        return engine.generate(prompts, params, use_tqdm=False)


def wrong(recording, outputs, params, seed=SEED):
    """Tokens that are not the contract's draws, and logprobs that are not those over what the cuts leave."""
    params = params if isinstance(params, list) else [params] * len(outputs)
    found, count = [], 0
    for output, asked in zip(outputs, params, strict=True):
        cuts = {"min_p": asked.min_p, "top_k": max(asked.top_k, 0), "top_p": asked.top_p}
        for completion in output.outputs:
            rows = recording.rows(output, completion, "scaled" if asked.temperature > 0 else "given")
            position = len(output.prompt_token_ids)
            for i, ((_, row), token) in enumerate(zip(rows, completion.token_ids, strict=True)):
                z = row.float().numpy()
                kept = expected.cut(z, **cuts) if asked.temperature > 0 else np.arange(len(z))
                right = int(z.argmax())
                if asked.temperature > 0:
                    right = expected.draw(z, kept, asked.seed or seed, completion.index, position + i)
                if token != right:
                    found.append(f"token {i} of {completion.index}: {token}, not {right}")
                if completion.logprobs and asked.temperature > 0:
                    left = np.full_like(z, -np.inf)
                    left[kept] = z[kept]
                    found += recording.wrong_of_row(None, torch_of(left), completion.logprobs[i], False)
                count += 1
    assert count > 0
    return found


def torch_of(row):
    import torch

    return torch.from_numpy(row)


def test_it_is_on_and_says_so(engine):
    assert engine.collective_rpc("isologit_state")[0]["draws"] == "contract"


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.7},
        {"temperature": 1.0, "n": 3},
        {"temperature": 1.3, "top_p": 0.8},
        {"temperature": 0.9, "top_k": 7},
        {"temperature": 1.5, "top_k": 50, "top_p": 0.9, "min_p": 0.05, "n": 2},
        {"temperature": 1.0, "min_p": 0.1},
        {"temperature": 0.6, "repetition_penalty": 1.2, "presence_penalty": 0.5, "logit_bias": {17: 8.0}},
        {"temperature": 1.0, "allowed_token_ids": list(range(5, 300)), "top_p": 0.5},
    ],
    ids=lambda params: ",".join(params),
)
def test_sampling(engine, recording, params):
    params = SamplingParams(max_tokens=6, logprobs=3, seed=SEED, **params)
    outputs = generate(engine, recording, PROMPTS, params)
    assert wrong(recording, outputs, params) == []


def test_a_grammar(engine, recording):
    choice = StructuredOutputsParams(choice=["Moses", "Aaron"])
    params = SamplingParams(max_tokens=6, temperature=1.0, seed=3, structured_outputs=choice)
    outputs = generate(engine, recording, PROMPTS[:2], params)
    assert {output.outputs[0].text for output in outputs} <= {"Moses", "Aaron"}
    assert wrong(recording, outputs, params) == []


def test_a_batch_of_all_kinds(engine, recording):
    """Greedy rows among others; long prompts in chunks, with seeds, which vLLM's own generators do not survive."""
    params = [
        SamplingParams(max_tokens=12, temperature=0),
        SamplingParams(max_tokens=7, temperature=1.0, seed=1, logprobs=2),
        SamplingParams(max_tokens=9, temperature=0.5, top_p=0.9, seed=-7 % 2**64, n=2),
        SamplingParams(max_tokens=3, temperature=1.0, seed=1, frequency_penalty=1.0),
        SamplingParams(max_tokens=5, temperature=1.1, top_k=3, seed=2),
    ]
    outputs = generate(engine, recording, [PROMPTS[0], LONG, PROMPTS[2], LONG + PROMPTS[1], PROMPTS[3]], params)
    assert wrong(recording, outputs, params) == []
    assert max(len(step["requests"]) for step in recording.steps) > 2


def test_preemption(engine, recording, preempted_in):
    preempted = preempted_in(engine)
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=11, ignore_eos=True, n=2)
    outputs = generate(engine, recording, PROMPTS, params)
    assert preempted
    assert wrong(recording, outputs, params) == []


def test_equal_requests_draw_equal_tokens_and_sequences_differ(engine):
    params = SamplingParams(max_tokens=8, temperature=1.0, seed=5, n=3)
    one, other = engine.generate(PROMPTS[:1] * 2, params, use_tqdm=False)
    tokens = [completion.token_ids for completion in one.outputs]
    assert tokens == [completion.token_ids for completion in other.outputs]
    assert len({tuple(each) for each in tokens}) == 3


def test_a_request_without_a_seed_says_which_it_drew(engine, recording):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("vllm.isologit")
    logger.addHandler(handler)
    try:
        params = SamplingParams(max_tokens=5, temperature=1.0, n=2)
        outputs = generate(engine, recording, PROMPTS[:2], params)
    finally:
        logger.removeHandler(handler)
    seeds = {record.args[0]: record.args[1] for record in records if "has no seed" in record.msg}
    assert len(set(seeds.values())) == 2
    for output in outputs:
        assert wrong(recording, [output], params, seeds[output.request_id]) == []
    again = generate(engine, recording, PROMPTS[:2], params)
    assert [out.outputs[0].token_ids for out in again] != [out.outputs[0].token_ids for out in outputs]


@pytest.mark.parametrize("mutant", ["the position before", "place in the batch", "one seed for all", "no top_p"])
def test_wrong_draws_would_be_noticed(engine, recording, mutant):
    params = SamplingParams(max_tokens=6, temperature=1.3, top_p=0.8, seed=SEED)
    engine.collective_rpc("mutate", args=(mutant,))
    try:
        outputs = generate(engine, recording, PROMPTS, params)
    finally:
        engine.collective_rpc("repair")
    assert wrong(recording, outputs, params) != []


def test_the_warm_up_of_the_sampler(engine, monkeypatch):
    """As vLLM does it on a GPU, after the plugin has started: rows of no request."""
    import torch

    runner = engine.llm_engine.model_executor.driver_worker.worker.model_runner
    monkeypatch.setattr(runner, "input_batch", types.SimpleNamespace(num_reqs=0))
    with torch.inference_mode():
        runner._dummy_sampler_run(torch.ones(3, 128, dtype=torch.bfloat16))


def test_a_seed_of_more_than_64_bits_is_refused(engine):
    with pytest.raises(ValueError, match="seed is 18446744073709551616; expected a number of 64 bits"):
        engine.generate(PROMPTS[:1], SamplingParams(seed=2**64), use_tqdm=False)
