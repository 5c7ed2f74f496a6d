"""Prompt scores of logits that stay on their ranks: those that vLLM's own code makes of gathered ones and of exact
logprobs. The ranks are processes over gloo, without an engine; test_vllm_tensor_parallel.py has one."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from vllm.v1.sample.sampler import Sampler

import isologit
from isologit.integrations.vllm import _own_logits

BOUNDS = [0, 40, 45, 101]  # of three ranks; the second has fewer ids than are asked for
K = 7


def cases():
    """[N, V] logits, which hold nothing of one row that would be of use to another."""
    generator = torch.Generator().manual_seed(3)
    usual = torch.randn(24, BOUNDS[-1], generator=generator) * 4
    close = torch.randn(24, BOUNDS[-1], generator=generator) * 4e-7  # many logits share a logprob
    peaked = usual.clone()
    peaked[:, 50] += 60  # all but one logprob are coarser than their logits
    special = usual.clone()
    special[0, 3], special[1, 44], special[2] = torch.nan, torch.inf, -torch.inf
    special[3, 10:90], special[4, 44:] = -torch.inf, -torch.inf
    equal = usual.round()
    return {"usual": usual, "close": close, "peaked": peaked, "special": special, "equal": equal}


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    first, last = BOUNDS[rank], BOUNDS[rank + 1]

    _own_logits.get_tp_group = lambda: SimpleNamespace(cpu_group=dist.group.WORLD)
    indices = SimpleNamespace(org_vocab_start_index=first, num_org_elements=last - first)
    layer = SimpleNamespace(isologit_indices=indices, org_vocab_size=BOUNDS[-1])
    sampler = SimpleNamespace(compute_logprobs=None)
    own = _own_logits.OwnLogits(layer, sampler, 1, None)
    found = {}
    for name, logits in cases().items():
        tokens = (torch.arange(len(logits)) * 29 + 3) % BOUNDS[-1]
        padded = torch.nn.functional.pad(logits[:, first:last], (0, 5), value=9.0)
        with own:
            normalized = sampler.gather_logprobs(sampler.compute_logprobs(padded), K, tokens)
            plain = sampler.gather_logprobs(padded, K, tokens)
        wanted = Sampler.gather_logprobs(isologit.log_softmax(logits), K, tokens)
        wrong = [problem(found, want, logits) for found, want in ((normalized, wanted), (plain, gathered(logits, tokens)))]
        found[name] = [one for one in wrong if one]
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(found, file)
    dist.barrier()


def gathered(logits, tokens):
    return Sampler.gather_logprobs(logits, K, tokens)


def problem(found, wanted, logits):
    """Scores, the token's id and its rank are those of one process. So are the top's ids, but for those of equal
    scores, of which vLLM takes any."""
    (ids, scores, ranks), (right_ids, right, right_ranks) = found[:3], wanted[:3]
    if ids.dtype != right_ids.dtype or ranks.dtype != right_ranks.dtype:
        return f"types {ids.dtype} {ranks.dtype}"
    if not torch.equal(scores.nan_to_num(7.5), right.nan_to_num(7.5)):
        return "scores"
    if not torch.equal(ranks, right_ranks):
        return f"ranks {ranks.tolist()} {right_ranks.tolist()}"
    top, right_top = ids[:, 1:].long(), right_ids[:, 1:].long()
    for row in range(len(ids)):
        values = logits[row, top[row]]
        if len(set(top[row].tolist())) < K or ids[row, 0] != right_ids[row, 0]:
            return f"ids {top[row].tolist()}"
        if not values.isnan().any() and not torch.equal(values, logits[row].sort(descending=True).values[:K]):
            return f"the top's logits of row {row}"
        if scores[row, 1:].unique().numel() == K and (scores[row, 1:] > -torch.inf).all():
            at_the_end = isologit.log_softmax(logits[row]).eq(scores[row, -1]).sum() > 1
            if not at_the_end and not torch.equal(top[row], right_top[row]):
                return f"ids {top[row].tolist()} {right_top[row].tolist()}"
    return ""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    isologit.log_softmax(torch.zeros(1, 2))  # what torch loads at a first call, before ranks are forked
    children = []
    for rank in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                work(rank, folder)
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


@pytest.mark.parametrize("case", cases())
def test_scores_of_logits_that_stay_on_their_ranks(found, case):
    assert [rank[case] for rank in found] == [[]] * 3


def test_there_are_ranks_that_logits_alone_do_not_tell():
    """Of the close ones more ids share the token's logprob than its logit."""
    logits = cases()["close"]
    tokens = (torch.arange(len(logits)) * 29 + 3) % BOUNDS[-1]
    by_logits, by_logprobs = (
        Sampler.gather_logprobs(scores, K, tokens).selected_token_ranks
        for scores in (logits, isologit.log_softmax(logits))
    )
    assert (by_logprobs > by_logits).sum() > 10
