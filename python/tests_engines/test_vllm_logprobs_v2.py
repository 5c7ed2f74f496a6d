"""What is put into the V2 model runner, called as that would. test_vllm_v2_runner.py runs the runner itself."""

import expected
import pytest
import torch
from vllm.v1.worker.gpu.sample import logprob, prompt_logprob

from isologit.integrations.vllm import _logprobs_v2, _processors


@pytest.fixture
def in_place():
    _logprobs_v2.put_in_place(2, _processors.bound())
    yield
    _logprobs_v2.take_back()


def rows(dtype):
    """Logits and ids; a third of the rows is all but certain of its first id."""
    generator = torch.Generator().manual_seed(5)
    logits = (2 * torch.randn(6, 4096, generator=generator)).to(dtype)
    ids = torch.randint(0, 4096, (6, 64), generator=generator, dtype=torch.int32)
    logits[:2].scatter_(1, ids[:2, :1].long(), 60)
    return logits, ids


def wrong(found, logits, ids):
    return sum(
        value != right
        for row, picked, values in zip(logits.float().numpy(), ids.tolist(), found, strict=True)
        for value, right in zip(expected.bits(values), expected.bits(expected.log_softmax(row, picked)), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_of_ids(in_place, dtype):
    logits, ids = rows(dtype)
    for module in (logprob, prompt_logprob):
        found = module.compute_token_logprobs(logits, ids)
        assert found.dtype == torch.float32 and found.shape == ids.shape
        assert wrong(found, logits, ids) == 0


@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_a_wrong_log_softmax_would_be_noticed(wide):
    logits, ids = rows(torch.float32)
    found = logits.log_softmax(-1, dtype=wide).gather(1, ids.long()).float()
    assert wrong(found, logits, ids) > 0


def test_logprobs_of_fixed_ids_of_a_prompt(in_place):
    """The class of the runner that takes the function by its own name."""
    import types

    import numpy as np
    from vllm import SamplingParams

    generator = torch.Generator().manual_seed(6)
    hidden, weight = (torch.randn(n, 8, generator=generator) for n in (5, 300))
    params = SamplingParams(prompt_logprobs=0)
    params.prompt_logprob_token_ids = np.array([[1, 299], [7, -1], [0, 5], [2, 2]])
    worker = prompt_logprob.PromptLogprobsWorker(1, torch.device("cpu"))
    worker.add_request("a", 0, params)
    batch = types.SimpleNamespace(
        req_ids=["a"], idx_mapping_np=[0], num_computed_prefill_tokens_np=[0], num_scheduled_tokens=[5],
        prefill_len_np=[5], query_start_loc_np=[0],
    )  # fmt: skip
    made = []

    def logits_of(rows):
        made.append(rows @ weight.T)
        return made[-1]

    scores = worker.compute_prompt_token_id_logprobs(logits_of, hidden, batch, np.array([5]))["a"]
    for row, picked, values in zip(torch.cat(made).numpy(), [[1, 299], [7], [0, 5], [2, 2]], scores, strict=True):
        assert expected.bits(values[: len(picked)]) == expected.bits(expected.log_softmax(row, picked))
    assert scores[1, 1] == -torch.inf


def test_another_change_is_refused(in_place):
    with pytest.raises(ValueError, match=r"logprob.compute_token_logprobs is isologit\..*; expected vLLM's own"):
        _logprobs_v2.put_in_place(2, _processors.bound())


def test_requests_of_the_warm_up_need_no_seed():
    import types

    from vllm import SamplingParams
    from vllm.v1.worker.gpu.sample.sampler import Sampler

    from isologit.integrations.vllm._draws_v2 import ContractDraws

    sampler = Sampler.__new__(Sampler)
    sampler.sampling_states = types.SimpleNamespace(max_num_reqs=2)
    sampler.add_request = lambda *args: None
    states = types.SimpleNamespace(index_to_req_id={0: "_warmup_0_", 1: "someone's"})
    runner = types.SimpleNamespace(sampler=sampler, rejection_sampler=None, req_states=states)
    with pytest.raises(ValueError, match="expected vLLM's own"):  # but for a sampler that another has changed
        ContractDraws(runner, 0, frozenset({0}))
    del sampler.add_request
    draws = ContractDraws(runner, 0, frozenset({0}))
    draws._add_request = lambda *args: None
    draws.add_request(0, SamplingParams.for_sampler_warmup())
    with pytest.raises(RuntimeError, match="the request someone's reached the sampler without a seed"):
        draws.add_request(1, SamplingParams())
