"""Two ranks with prefix caching, prompts in chunks and LoRA on the head; and what is wrong of them is noticed."""

import expected
import pytest
import torch
from recording import Recording
from test_vllm_processed import save_adapter
from vllm import SamplingParams
from vllm.lora.request import LoRARequest

import isologit

PROMPTS = ["In the beginning", "And the LORD said unto Moses, Speak unto", "Blessed", "The words of the king and"]
LONG = "And it came to pass in those days, that there went out a decree from the king, that all the people " * 3


@pytest.fixture(scope="module")
def engine(start, untied_model):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
        ranks = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
        chunks = {"max_num_batched_tokens": 32, "enable_chunked_prefill": True, "block_size": 32}
        # Of two adapters' places one stays empty: vLLM on the CPU gives rows without an adapter that of the last place.
        lora = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 2}
        yield start(untied_model, {"isologit": {"threads": 1}}, enable_prefix_caching=True, **ranks, **chunks, **lora)


@pytest.fixture
def generate(engine, tmp_path, whole_head):
    """generate(prompts, params) gives what the engine returned, and the recording of it."""

    def generate(prompts, params, **arguments):
        recording = Recording(engine, tmp_path, whole_head)
        with recording:
            return engine.generate(prompts, params, use_tqdm=False, **arguments), recording

    return generate


def test_prefix_caching(generate):
    prompts = [LONG + "Blessed", LONG + "And"]
    params = SamplingParams(max_tokens=3, temperature=0, logprobs=2)
    first, recording = generate(prompts, params)
    assert recording.wrong(first) == []
    again, recording = generate(prompts, params)
    assert all(output.num_cached_tokens > 0 for output in again)
    assert recording.wrong(again) == [] and recording.wrong_logits(2) == 0


def test_prompts_in_chunks_beside_others(generate):
    kinds = [
        SamplingParams(max_tokens=12, temperature=0, logprobs=2),
        SamplingParams(max_tokens=5, temperature=0.8, top_p=0.9, logprobs=3),
        SamplingParams(max_tokens=9, temperature=0, frequency_penalty=1.0, logprobs=1),
    ]
    outputs, recording = generate([PROMPTS[0], "Amen " + LONG, PROMPTS[2]], kinds)
    assert len(outputs[1].prompt_token_ids) > 32
    assert recording.wrong(outputs) == []
    assert max(len(step["requests"]) for step in recording.steps) > 1


def test_lora_on_the_head(generate, tmp_path):
    """Its A picks eight hidden values, its B gives each id one of them, times a power of 2: vLLM's delta is exact, and
    its logits are ours with the delta added in f32."""
    ids = torch.arange(4091)
    picked = torch.tensor([3, 17, 40, 64, 65, 90, 101, 127])
    a, b = torch.zeros(8, 128), torch.zeros(4091, 8)
    a[torch.arange(8), picked] = 1
    b[ids, ids % 8] = 0.25 * (-1.0) ** (ids // 8)
    lora = LoRARequest("head", 1, save_adapter(tmp_path, a.bfloat16(), b.bfloat16()))
    outputs, recording = generate(PROMPTS, SamplingParams(max_tokens=3, temperature=0, logprobs=3), lora_request=lora)
    weight = recording.weight.float().numpy()
    for step in recording.steps:
        delta = step["hidden"].float()[:, picked][:, ids % 8] * b[ids, ids % 8]
        assert torch.equal(step["logits"], isologit.logits(step["hidden"], recording.weight) + delta)
        first = torch.from_numpy(expected.logits(step["hidden"][0].float().numpy(), weight))
        assert torch.equal(step["logits"][0], first + delta[0])
        assert bool(delta.any())
    for output in outputs:
        rows = recording.rows(output, output.outputs[0], "logits")
        for (hidden, logits), returned in zip(rows, output.outputs[0].logprobs, strict=True):
            assert recording.wrong_of_row(hidden, logits, returned, False) == []


@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize("mutant", [None, "f32 products", "bf16 logits", "head off"])
def test_a_wrong_head_would_be_noticed(engine, generate, mutant, rank):
    engine.collective_rpc("mutate", args=(mutant, rank))
    try:
        outputs, recording = generate(PROMPTS, SamplingParams(max_tokens=4, temperature=0, logprobs=20))
    finally:
        engine.collective_rpc("repair")
    is_wrong = mutant is not None
    assert (recording.wrong(outputs) != []) == is_wrong and (recording.wrong_logits() > 0) == is_wrong


def test_a_cached_weight_would_be_noticed(engine, generate):
    engine.collective_rpc("mutate", args=("cached weight", 1))
    engine.collective_rpc("scale_head", args=(2.0,))
    engine.reset_prefix_cache()
    try:
        outputs, recording = generate(PROMPTS, SamplingParams(max_tokens=2, temperature=0, logprobs=20))
    finally:
        engine.collective_rpc("repair")
        engine.collective_rpc("scale_head", args=(0.5,))
    recording.weight = recording.weight * 2
    assert recording.wrong(outputs) != [] and recording.wrong_logits() > 0


@pytest.fixture
def peaked(engine):
    engine.collective_rpc("scale_norm", args=(64.0,))
    engine.reset_prefix_cache()
    yield
    engine.collective_rpc("scale_norm", args=(1 / 64,))
    engine.reset_prefix_cache()


@pytest.mark.parametrize("mutant", [None, "logprobs off", "log_softmax in f64"])
def test_a_wrong_log_softmax_would_be_noticed(engine, generate, peaked, mutant):
    engine.collective_rpc("mutate", args=(mutant,))
    try:
        outputs, recording = generate(PROMPTS, SamplingParams(max_tokens=8, temperature=0, logprobs=5))
    finally:
        engine.collective_rpc("repair")
    assert (recording.wrong(outputs) != []) == (mutant is not None)
