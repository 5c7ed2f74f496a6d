"""Prompt scores of logits that stay on their ranks: those that vLLM's own code makes of gathered ones and of exact
logprobs. The ranks are processes over gloo, without an engine; test_vllm_tensor_parallel.py has one."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.v1.sample.sampler import Sampler

import isologit
from isologit.integrations.vllm import _own_logits, _settings, _start
from isologit.integrations.vllm._prompt_logprobs import PromptBlocks

BOUNDS = [0, 40, 45, 101]  # of three ranks; the second has fewer ids than are asked for
K = 7


def cases():
    """[N, V] logits, which hold nothing of one row that would be of use to another."""
    generator = torch.Generator().manual_seed(3)
    usual = torch.randn(24, BOUNDS[-1], generator=generator) * 4
    close = torch.randn(24, BOUNDS[-1], generator=generator) * 1e-5  # some logits share a logprob
    peaked = usual.clone()
    peaked[:, 50] += 60  # all but one logprob are coarser than their logits
    special = usual.clone()
    special[0, 3], special[1, 44], special[2] = torch.nan, torch.inf, -torch.inf
    special[3, 10:90], special[4, 44:] = -torch.inf, -torch.inf
    flat = torch.randn(24, BOUNDS[-1], generator=generator) * 4e-8  # so many that they are not asked one by one
    return {"usual": usual, "close": close, "flat": flat, "peaked": peaked, "special": special, "equal": usual.round()}


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    first, last = BOUNDS[rank], BOUNDS[rank + 1]

    _own_logits._MOST_NEAR = 8
    _own_logits.get_tp_group = lambda: SimpleNamespace(cpu_group=dist.group.WORLD)
    indices = SimpleNamespace(
        org_vocab_start_index=first, org_vocab_end_index=last, num_org_elements=last - first, num_added_elements=0
    )
    layer = SimpleNamespace(isologit_indices=indices, org_vocab_size=BOUNDS[-1], isologit_gathers=True)
    sampler = SimpleNamespace(compute_logprobs=None)
    own = _own_logits.OwnLogits(layer, sampler, 1, None)
    found = {}
    for name, logits in cases().items():
        tokens = (torch.arange(len(logits)) * 29 + 3) % BOUNDS[-1]
        padded = torch.nn.functional.pad(logits[:, first:last], (0, 60 - last + first), value=9.0)
        with own:
            normalized = sampler.gather_logprobs(sampler.compute_logprobs(padded), K, tokens)
            plain = sampler.gather_logprobs(padded, K, tokens)
        wanted = Sampler.gather_logprobs(isologit.log_softmax(logits), K, tokens)
        wrong = [problem(normalized, wanted, logits), problem(plain, gathered(logits, tokens), logits)]
        found[name] = [one for one in wrong if one]
    found["models"] = models(layer, rank, first, last)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(found, file)
    dist.barrier()


def models(layer, rank, first, last):
    """Of which of these each rank's logits alone will do."""

    def of_layer(logits):
        return logits if layer.isologit_gathers else torch.nn.functional.pad(logits[:, first:last], (0, 5))

    def bans_an_id(logits):
        logits = of_layer(logits).clone()
        logits[:, 50] = -torch.inf
        return logits

    def of_one_rank_alone(logits):
        return of_layer(logits) * (2 if rank == 1 and layer.isologit_gathers else 1)

    calls = (of_layer, lambda logits: of_layer(logits) * 2, bans_an_id, of_one_rank_alone)
    return [_own_logits.can_keep(layer, call, cases()["usual"][:1]) for call in calls]


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


def fork_ranks(folder):
    """Returns the exit status. Of a process whose OpenMP has no threads yet, which a fork would lose."""
    torch.set_num_threads(1)
    isologit.log_softmax(torch.zeros(1, 2))  # what torch loads at a first call, before ranks are forked
    children = []
    for rank in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(rank, folder)
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        children.append(child)
    return int(any([os.waitpid(child, 0)[1] for child in children]))  # a list: all are waited for


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, folder], check=True, timeout=240, env=alone)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


@pytest.mark.parametrize("case", cases())
def test_scores_of_logits_that_stay_on_their_ranks(found, case):
    assert [rank[case] for rank in found] == [[]] * 3


def test_models_that_do_more_with_their_logits(found):
    """The same on all ranks."""
    assert [rank["models"] for rank in found] == [[True, True, False, False]] * 3


def test_long_lists_are_made_of_gathered_logits():
    entered, calls = [], []

    class Own:
        def __enter__(self):
            entered.append(True)

        def __exit__(self, *error):
            entered.append(False)

    names = {"short": _own_logits.MOST_TOP, "long": _own_logits.MOST_TOP + 1}
    runner = SimpleNamespace(
        num_prompt_logprobs=names,
        requests={name: SimpleNamespace(num_computed_tokens=0) for name in names},
        _get_prompt_logprobs_dict=lambda hidden, scheduled: calls.append((*scheduled, entered[-1:] == [True])) or {},
    )
    PromptBlocks(runner, Own())(torch.zeros(70, 2), dict.fromkeys(names, 70))
    assert calls == [("short", True)] * 2 + [("long", False)] * 2 and entered == [True, False] * 2


@pytest.mark.parametrize(("case", "most"), [("close", 8), ("flat", 101)])
def test_there_are_ranks_that_logits_alone_do_not_tell(case, most):
    """More ids share the token's logprob than its logit: of the close ones few enough to be asked one by one."""
    logits = cases()[case]
    tokens = (torch.arange(len(logits)) * 29 + 3) % BOUNDS[-1]
    by_logits, by_logprobs = (
        Sampler.gather_logprobs(scores, K, tokens).selected_token_ranks
        for scores in (logits, isologit.log_softmax(logits))
    )
    assert (by_logprobs > by_logits).sum() > 5 and 0 < (by_logprobs - by_logits).max() <= most


@pytest.mark.parametrize(("device", "asked"), [("cpu", True), ("cuda", False)])
def test_ranks_elsewhere_gather(monkeypatch, device, asked):
    """What they would tell one another lies on the device, and the groups of parallel are gloo's."""
    calls = []
    monkeypatch.setattr(_start, "can_keep", lambda *_: calls.append(device))
    monkeypatch.setattr(_start, "get_pp_group", lambda: SimpleNamespace(is_last_rank=True))
    monkeypatch.setattr(_start, "get_tp_group", lambda: SimpleNamespace(world_size=2))
    monkeypatch.setattr(_start, "_row", lambda _: None)
    model = SimpleNamespace(modules=lambda: [LogitsProcessor.__new__(LogitsProcessor)], compute_logits=None)
    config = SimpleNamespace(lora_config=None)
    worker = SimpleNamespace(device=torch.device(device), get_model=lambda: model, vllm_config=config)
    assert _start._own_logits(worker, _settings.Settings(), frozenset()) is None and bool(calls) == asked


if __name__ == "__main__":
    sys.exit(fork_ranks(sys.argv[1]))
