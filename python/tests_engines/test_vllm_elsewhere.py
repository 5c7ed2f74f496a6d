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


def draws(logits):
    """As the V1 runner's sampler makes them, with cuts; and the logits that these leave."""
    import numpy as np
    from vllm import SamplingParams
    from vllm.v1.sample.sampler import Sampler

    from isologit.integrations.vllm import _requests
    from isologit.integrations.vllm._draws import ContractDraws

    names = [f"request {i}" for i in range(logits.shape[0])]
    params = [SamplingParams(top_p=0.9, top_k=40 + i, min_p=0.001 * i, seed=i) for i in range(len(names))]
    batch = types.SimpleNamespace(
        num_reqs=len(names), req_ids=names, num_tokens_no_spec=np.arange(3, 20, dtype=np.int32),
        logitsprocs=types.SimpleNamespace(argmax_invariant=[]),
    )  # fmt: skip
    requests = {name: types.SimpleNamespace(sampling_params=one) for name, one in zip(names, params, strict=True)}
    runner = types.SimpleNamespace(sampler=Sampler("processed_logits"), input_batch=batch, requests=requests)
    drawing = ContractDraws(runner, 0, frozenset({0}))
    original = _requests.numbers_of
    _requests.numbers_of = lambda one, name: (one.seed, 5)
    try:
        return drawing(logits, {}, None, None)
    finally:
        _requests.numbers_of = original


def main() -> None:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    import other_device

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
        drawn, left = draws(logits)
        found, found_left = draws(there(logits))
        assert len(set(drawn.tolist())) > 2
        same("draws", drawn, found)
        same("what cuts leave", left, found_left)
    print("the same")


if __name__ == "__main__":
    main()
