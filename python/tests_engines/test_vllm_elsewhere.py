"""What the plugin puts into vLLM, with tensors that are not the CPU's (python/tests/other_device.py): the bits are the
same, and nothing mixes them with the CPU's. In a process of its own, which has that device for good."""

import subprocess
import sys
import types
from pathlib import Path

import torch


def test_tensors_of_another_device():
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.splitlines()[-1:]) == (0, ["the same"]), (run.stdout[-2000:], run.stderr[-4000:])


def tensors():
    generator = torch.Generator().manual_seed(7)
    hidden, weight = (torch.randn(n, 64, generator=generator).bfloat16() for n in (6, 500))
    ids = torch.randint(0, 500, (6, 4), generator=generator, dtype=torch.int32)
    return hidden, weight, ids


def head(hidden, weight):
    """By the layer of the model."""
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    from isologit.integrations.vllm import _settings
    from isologit.integrations.vllm._head import IsologitLogitsProcessor

    layer = torch.nn.Module.__new__(IsologitLogitsProcessor)
    torch.nn.Module.__init__(layer)
    layer.isologit, layer.isologit_calls, layer.isologit_processors = _settings.Settings(), 0, frozenset({0})
    layer.isologit_softcap, layer.isologit_rows, layer.isologit_gathers = None, 0, True
    lm_head = types.SimpleNamespace(
        quant_method=UnquantizedEmbeddingMethod(), weight=weight, num_embeddings_per_partition=weight.shape[0]
    )
    return layer._apply_head(lm_head, hidden, None)


def logprobs(logits):
    """As the V1 runner's sampler makes them."""
    from vllm.v1.sample.sampler import Sampler

    from isologit.integrations.vllm._logprobs import ExactLogprobs

    sampler = Sampler()
    ExactLogprobs(sampler, 0, frozenset({0}))
    return sampler.compute_logprobs(logits)


def logprobs_of_ids(logits, ids):
    """As the V2 runner makes them."""
    from vllm.v1.worker.gpu.sample import logprob

    from isologit.integrations.vllm import _logprobs_v2

    _logprobs_v2.put_in_place(0, frozenset({0}))
    try:
        return logprob.compute_token_logprobs(logits, ids)
    finally:
        _logprobs_v2.take_back()


PARAMS = [{"top_p": 0.9, "top_k": 40 + i, "min_p": 0.001 * i, "seed": i} for i in range(6)]


def v1_draws():
    """In the place of those of a V1 runner of six requests."""
    import numpy as np
    from vllm import SamplingParams
    from vllm.v1.sample.sampler import Sampler

    from isologit.integrations.vllm._draws import ContractDraws

    names = [f"request {i}" for i in range(len(PARAMS))]
    batch = types.SimpleNamespace(
        num_reqs=len(names), req_ids=names, num_tokens_no_spec=np.arange(3, 20, dtype=np.int32),
        logitsprocs=types.SimpleNamespace(argmax_invariant=[]),
    )  # fmt: skip
    params = [types.SimpleNamespace(sampling_params=SamplingParams(**one)) for one in PARAMS]
    requests = dict(zip(names, params, strict=True))
    runner = types.SimpleNamespace(sampler=Sampler("processed_logits"), input_batch=batch, requests=requests)
    return runner, ContractDraws(runner, 0, frozenset({0}))


def draws(logits):
    """As the V1 runner's sampler makes them, with cuts; and the logits that these leave."""
    return v1_draws()[1](logits, {}, None, None)


def accepted(logits):
    """What the V1 runner makes of drafts of two requests, the second greedy; and the logits that cuts leave."""
    from vllm.v1.sample import rejection_sampler

    from isologit.integrations.vllm import _draws_ahead

    def there(values, dtype=torch.int32):
        return torch.tensor(values, dtype=dtype).to(logits.device)

    runner, drawing = v1_draws()
    runner.rejection_sampler = torch.nn.Module.__new__(rejection_sampler.RejectionSampler)
    torch.nn.Module.__init__(runner.rejection_sampler)
    try:
        drafting = _draws_ahead.DraftsByDraws(runner, drawing)
        drafting._requests, drafting._positions = torch.tensor([0, 0, 1, 1]), there([5, 6, 9, 10], torch.int64)
        metadata = types.SimpleNamespace(all_greedy=False, temperature=there([0.7, 0.0], torch.float32))
        left = drafting.apply_sampling_constraints(logits[:4].clone(), None, metadata)
        draft, bonus = drafting._drawn.int(), there([[7], [8]])
        draft[3] += 1  # is rejected
        return drafting.rejection_sample(draft, [2, 2], 2, None, None, left, bonus, metadata), left
    finally:
        for name, function in _draws_ahead._vllms.items():
            setattr(rejection_sampler, name, function)


def v2_draws(logits):
    """As the V2 runner's sampler makes them, the fourth greedy; and the logits that cuts leave."""
    import numpy as np
    from vllm import SamplingParams
    from vllm.v1.worker.gpu.sample.sampler import Sampler

    from isologit.integrations.vllm._draws_v2 import ContractDraws

    sampler = Sampler.__new__(Sampler)
    temperature = types.SimpleNamespace(np=np.array([1, 1, 1, 0, 1, 1, 1]))
    sampler.sampling_states = types.SimpleNamespace(max_num_reqs=7, temperature=temperature)
    states = types.SimpleNamespace(index_to_req_id=dict.fromkeys(range(7), "a request"))
    runner = types.SimpleNamespace(sampler=sampler, rejection_sampler=None, req_states=states)
    drawing = ContractDraws(runner, 0, frozenset({0}))
    drawing._add_request = lambda slot, params: None
    for slot, one in enumerate(PARAMS):
        drawing.add_request(slot, SamplingParams(**one))
    slots, positions = torch.tensor([5, 3, 0, 1, 6, 4], dtype=torch.int32), torch.arange(9, 15)
    slots, positions = slots.to(logits.device), positions.to(logits.device)
    return sampler._sample_random(logits, slots, None, positions, None, None, False)


def main() -> None:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    import other_device

    from isologit.integrations.vllm import _requests

    elsewhere = other_device.device()

    def there(x):
        return x.to(elsewhere)

    def same(name, here, found):
        assert found.device.type == other_device.NAME, f"{name}: on {found.device}"
        assert torch.equal(found.cpu(), here), name

    with torch.inference_mode():
        hidden, weight, ids = tensors()
        logits = head(hidden, weight)
        same("head", logits, head(there(hidden), there(weight)))
        same("logprobs", logprobs(logits), logprobs(there(logits)))
        same("logprobs of ids", logprobs_of_ids(logits, ids), logprobs_of_ids(there(logits), there(ids)))
        _requests.numbers_of = lambda one, name: (one.seed, 5)
        for function in (draws, accepted, v2_draws):
            drawn, left = function(logits)
            found, found_left = function(there(logits))
            assert len(set(drawn.flatten().tolist())) > 2
            same(function.__name__, drawn, found)
            same(f"what is left of {function.__name__}", left, found_left)
        assert drawn[1] == logits[1].argmax()
    print("the same")


if __name__ == "__main__":
    main()
