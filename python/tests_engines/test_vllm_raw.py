"""logprobs_mode raw_logprobs, vLLM's default: of the model's own logits, whatever the sampler then does to them."""

import pytest
from recording import Recording
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams

# No request has a seed: vLLM on the CPU ends with an error where one is in a partial prefill.
PROMPTS = ["In the beginning", "And the LORD said unto Moses, Speak unto", "Blessed", "The words of the king and"]
LONG = "And it came to pass in those days, that there went out a decree from the king, that all the people " * 3


@pytest.fixture(scope="module")
def engine(start, model):
    chunks = {"max_num_batched_tokens": 32, "enable_chunked_prefill": True}
    return start(model, {"isologit": {}}, block_size=32, enable_prefix_caching=True, **chunks)


@pytest.fixture
def recording(engine, tmp_path):
    return Recording(engine, tmp_path)


def generate(engine, recording, prompts, params):
    with recording:
        return engine.generate(prompts, params, use_tqdm=False)


def test_it_is_on_and_says_so(engine):
    (state,) = engine.collective_rpc("isologit_state")
    assert state["on"] and state["arithmetic"] == "exact" and state["logprobs"] == "exact"
    assert state["rows"] >= state["calls"] > 0
    (inspected,) = engine.collective_rpc("get_model_inspection")
    assert "isologit=(scope head, arithmetic exact, logprobs exact, draws engine, threads automatic)" in inspected


def test_the_option_is_read_once(engine, recording):
    """A configuration that changes when the model is there changes nothing."""
    config = engine.llm_engine.model_executor.driver_worker.worker.vllm_config.additional_config
    params = SamplingParams(max_tokens=6, temperature=1.0, seed=5, logprobs=2)
    before = engine.generate(PROMPTS[:1], params, use_tqdm=False)
    for option in ({"arithmetic": "fast", "logprobs": "engine", "draws": "contract"}, {"no such key": 1}):
        config["isologit"] = option
        try:
            outputs = generate(engine, recording, PROMPTS[:1], params)
            (state,) = engine.collective_rpc("isologit_state")
        finally:
            config["isologit"] = {}
        assert (state["arithmetic"], state["logprobs"], state["draws"]) == ("exact", "exact", "engine")
        assert recording.wrong(outputs) == [] and recording.wrong_logits() == 0
        assert outputs[0].outputs[0].token_ids == before[0].outputs[0].token_ids  # vLLM's, of the seed


def test_greedy(engine, recording):
    outputs = generate(engine, recording, PROMPTS, SamplingParams(max_tokens=6, temperature=0, logprobs=5))
    assert recording.wrong(outputs) == []
    assert recording.wrong_logits() == 0


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.7},
        {"temperature": 1.0, "n": 3},
        {"temperature": 1.3, "top_p": 0.8},
        {"temperature": 0.9, "top_k": 7, "min_p": 0.05},
        {"temperature": 0, "presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
        {"temperature": 0, "logit_bias": {17: 30.0}, "allowed_token_ids": list(range(5, 300))},
    ],
    ids=lambda params: ",".join(params),
)
def test_sampling(engine, recording, params):
    outputs = generate(engine, recording, PROMPTS, SamplingParams(max_tokens=4, logprobs=3, **params))
    assert recording.wrong(outputs) == []


def test_a_batch_of_all_kinds(engine, recording):
    """Long prompts in chunks, beside requests that decode, each with parameters of its own."""
    kinds = [
        SamplingParams(max_tokens=12, temperature=0, logprobs=2),
        SamplingParams(max_tokens=7, temperature=1.0, logprobs=0),
        SamplingParams(max_tokens=9, temperature=0.5, top_p=0.9, logprobs=8),
        SamplingParams(max_tokens=3, temperature=1.0, logprobs=1, frequency_penalty=1.0),
        SamplingParams(max_tokens=5, temperature=0, logprobs=4, logit_bias={3: -100.0}),
    ]
    outputs = generate(engine, recording, [PROMPTS[0], LONG, PROMPTS[2], LONG + PROMPTS[1], PROMPTS[3]], kinds)
    assert recording.wrong(outputs) == []
    assert max(len(step["requests"]) for step in recording.steps) > 2


def test_a_row_does_not_depend_on_its_batch(engine, recording):
    """The rows of a batch, given to the head one at a time, have the same bits."""
    import torch

    import isologit

    generate(engine, recording, PROMPTS, SamplingParams(max_tokens=3, temperature=0))
    for step in recording.steps:
        for hidden, logits in zip(step["hidden"], step["logits"], strict=True):
            alone = isologit.logits(hidden[None], recording.weight)[0]
            assert torch.equal(alone.view(torch.int32), logits.view(torch.int32))


def test_prefix_caching(engine, recording):
    prompts = [LONG + "Blessed", LONG + "And"]
    outputs = generate(engine, recording, prompts, SamplingParams(max_tokens=3, temperature=0, logprobs=2))
    again = generate(engine, recording, prompts, SamplingParams(max_tokens=3, temperature=0, logprobs=2))
    assert all(output.num_cached_tokens > 0 for output in again)
    assert recording.wrong(again) == []
    assert len(outputs) == 2


def test_structured_output(engine, recording):
    choice = StructuredOutputsParams(choice=["Moses", "Aaron"])
    params = SamplingParams(max_tokens=6, temperature=0, logprobs=3, structured_outputs=choice)
    outputs = generate(engine, recording, PROMPTS[:2], params)
    assert {output.outputs[0].text for output in outputs} <= {"Moses", "Aaron"}
    assert recording.wrong(outputs, "given") == []


def test_prompt_logprobs(engine, recording):
    """In chunks of the prompt."""
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=2)
    (output,) = generate(engine, recording, [LONG + "Amen"], params)
    rows = [
        (hidden, logits)
        for part in recording.prompts
        for hidden, logits in zip(part["hidden"], part["logits"], strict=True)
    ]
    assert len(recording.prompts) > 1
    assert len(rows) == len(output.prompt_logprobs) - 1 == len(output.prompt_token_ids) - 1
    wrong = []
    for (hidden, logits), returned in zip(rows, output.prompt_logprobs[1:], strict=True):
        wrong += recording.wrong_of_row(hidden, logits, returned, True)
    assert wrong == []


def test_ids_that_were_asked_for(engine, recording):
    params = SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=[5, 4095, 17, 300])
    outputs = generate(engine, recording, PROMPTS[:2], params)
    assert recording.wrong(outputs) == []
    assert {5, 4095, 17, 300} <= set(outputs[0].outputs[0].logprobs[0])


@pytest.mark.parametrize("update", ["scale_head", "load_head"])
def test_weights_that_change_are_seen_by_the_next_token(engine, recording, tmp_path, update):
    params = SamplingParams(max_tokens=2, temperature=0, logprobs=3)
    engine.reset_prefix_cache()
    before = generate(engine, recording, PROMPTS[:1], params)
    former = recording.weight
    assert recording.wrong(before) == []
    engine.collective_rpc(update, args=(2.0,))
    engine.reset_prefix_cache()
    try:
        after = generate(engine, recording, PROMPTS[:1], params)
        assert not former.equal(recording.weight) and recording.weight.equal(former * 2)
        assert recording.wrong(after) == []
        assert recording.wrong_logits() == 0
    finally:
        engine.collective_rpc("scale_head", args=(0.5,))


@pytest.fixture
def peaked(engine):
    engine.collective_rpc("scale_norm", args=(8.0,))
    engine.reset_prefix_cache()
    yield
    engine.collective_rpc("scale_norm", args=(0.125,))
    engine.reset_prefix_cache()


def test_near_certain_tokens(engine, recording, peaked):
    outputs = generate(engine, recording, PROMPTS, SamplingParams(max_tokens=8, temperature=0, logprobs=5))
    assert recording.wrong(outputs) == []
    certain = [step.logprob for o in outputs for step in [next(iter(o.outputs[0].logprobs[0].values()))]]
    assert max(certain) > -1e-3


@pytest.mark.parametrize("mutant", ["f32 products", "bf16 logits", "head off"])
def test_a_wrong_head_would_be_noticed(engine, recording, mutant):
    engine.collective_rpc("mutate", args=(mutant,))
    try:
        outputs = generate(engine, recording, PROMPTS, SamplingParams(max_tokens=4, temperature=0, logprobs=5))
    finally:
        engine.collective_rpc("repair")
    assert recording.wrong(outputs) != [] and recording.wrong_logits() > 0


@pytest.mark.parametrize("mutant", ["logprobs off", "log_softmax in f64"])
def test_a_wrong_log_softmax_would_be_noticed(engine, recording, peaked, mutant):
    engine.collective_rpc("mutate", args=(mutant,))
    try:
        outputs = generate(engine, recording, PROMPTS, SamplingParams(max_tokens=8, temperature=0, logprobs=5))
    finally:
        engine.collective_rpc("repair")
    assert recording.wrong(outputs) != []


def test_a_cached_weight_would_be_noticed(engine, recording):
    engine.collective_rpc("mutate", args=("cached weight",))
    engine.collective_rpc("scale_head", args=(2.0,))
    engine.reset_prefix_cache()
    try:
        outputs = generate(engine, recording, PROMPTS, SamplingParams(max_tokens=2, temperature=0, logprobs=5))
    finally:
        engine.collective_rpc("repair")
        engine.collective_rpc("scale_head", args=(0.5,))
    assert recording.wrong(outputs) != [] and recording.wrong_logits() > 0
