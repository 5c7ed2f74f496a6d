"""logprobs_mode processed_logprobs: of what the sampler drew from, after penalties, temperature and cuts; LoRA."""

import json

import pytest
import torch
from recording import Recording
from safetensors.torch import save_file
from vllm import SamplingParams
from vllm.lora.request import LoRARequest

import isologit

PROMPTS = ["In the beginning", "And the LORD said unto Moses, Speak unto", "Blessed", "The words of the king and"]


@pytest.fixture(scope="module")
def engine(start, untied_model):
    return start(
        untied_model, {"fp32_lm_head": True}, logprobs_mode="processed_logprobs", enable_lora=True, max_lora_rank=8
    )


@pytest.fixture
def recording(engine, tmp_path):
    return Recording(engine, tmp_path)


def generate(engine, recording, params, lora=None):
    with recording:
        return engine.generate(PROMPTS, params, use_tqdm=False, lora_request=lora)


def test_the_switch_of_prime_rl(engine):
    (state,) = engine.collective_rpc("isologit_state")
    assert state["on"] and state["arithmetic"] == "exact" and state["logprobs"] == "exact"


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0},
        {"temperature": 0.7},
        {"temperature": 1.3, "n": 3},
        {"temperature": 0.3, "top_p": 0.8},
        {"temperature": 0.9, "top_k": 7},
        {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
        {"temperature": 0, "presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
        {"temperature": 0.6, "repetition_penalty": 1.2, "logit_bias": {17: 30.0}},
        {"temperature": 1.0, "allowed_token_ids": list(range(5, 300))},
    ],
    ids=lambda params: ",".join(params),
)
def test_sampling(engine, recording, params):
    outputs = generate(engine, recording, SamplingParams(max_tokens=4, logprobs=3, **params))
    assert recording.wrong(outputs, "final") == []
    assert recording.wrong_logits(2) == 0
    assert recording.steps[0]["logits"].shape[1] == 4091  # rows of padding are cut off


def test_a_batch_of_all_kinds(engine, recording):
    kinds = [
        SamplingParams(max_tokens=5, temperature=0, logprobs=2),
        SamplingParams(max_tokens=7, temperature=1.0, logprobs=0),
        SamplingParams(max_tokens=3, temperature=0.5, top_p=0.9, logprobs=8),
        SamplingParams(max_tokens=4, temperature=0.05, logprobs=1, frequency_penalty=1.0),
    ]
    outputs = generate(engine, recording, kinds)
    assert recording.wrong(outputs, "final") == []


def test_where_only_temperature_stands_between_they_are_linear_logprobs(engine, recording):
    outputs = generate(engine, recording, SamplingParams(max_tokens=6, temperature=0.7, logprobs=3))
    count = 0
    for output in outputs:
        completion = output.outputs[0]
        rows = recording.rows(output, completion, "final")
        for (hidden, _), returned in zip(rows, completion.logprobs, strict=True):
            head = isologit.linear_logprobs(
                hidden[None], recording.weight, torch.tensor([list(returned)]), temperature=0.7, vocab_size=4091
            )
            values = torch.tensor([[logprob.logprob for logprob in returned.values()]])
            assert torch.equal(head.logprobs.view(torch.int32), values.view(torch.int32))
            count += len(returned)
    assert count >= 4 * 6 * 3


def adapter(folder, scale):
    """Of rank 8, on the head alone."""
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(8, 128, generator=generator), scale * torch.randn(4091, 8, generator=generator)
    return save_adapter(folder, a.bfloat16(), b.bfloat16())


def save_adapter(folder, a, b):
    """As PEFT keeps it, of a scale of 1."""
    name = "base_model.model.lm_head.lora_{}.weight"
    save_file({name.format("A"): a, name.format("B"): b}, folder / "adapter_model.safetensors")
    rank = len(a)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["lm_head"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize("scale", [0.0, 0.05])
def test_lora_on_the_head(engine, recording, tmp_path, scale):
    """vLLM adds the adapter's delta to these logits: a delta of 0 leaves their bits alone."""
    lora = LoRARequest(f"head {scale}", 1 + int(scale > 0), adapter(tmp_path, scale))
    outputs = generate(engine, recording, SamplingParams(max_tokens=3, temperature=0.7, logprobs=3), lora)
    assert recording.wrong(outputs, "final") == []
    assert (recording.wrong_logits(2) == 0) == (scale == 0)


@pytest.mark.parametrize("mutant", ["logprobs off", "log_softmax in f64"])
def test_a_wrong_log_softmax_would_be_noticed(engine, recording, mutant):
    """Of a peaked distribution, or by the number of them."""
    engine.collective_rpc("mutate", args=(mutant,))
    try:
        outputs = generate(engine, recording, SamplingParams(max_tokens=8, temperature=0.06, logprobs=5))
    finally:
        engine.collective_rpc("repair")
    assert recording.wrong(outputs, "final") != []
