"""What ranks of isologit.parallel must find right: scenarios of groups.py."""

import contextlib
import functools
import time
from types import SimpleNamespace

import expected_gradients as by_definition
import torch
import torch.distributed as dist
from gradient_problem import dz_of
from test_score import TEMPERATURES, TOP_K, VOCAB, head, same, wanted_of
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import isologit
from isologit import parallel
from isologit._score import OUTPUTS
from isologit.parallel import _exchange

SIZES = (1, 2, 3, 4, 7)
HIDDEN, WEIGHT, IDS, MASK = head(6)
OPTIONS = {"scale": 0.375, "temperature": torch.tensor(TEMPERATURES)}
DRAWS = {"seed": 5, "sequence_id": torch.arange(4), "position": 9}


def split(size, rank, kind):
    """Of a rank [first, last) of the vocabulary. "padding": the last one has none, and rows of padding alone where the
    last rows are padded."""
    even = [VOCAB * r // size for r in range(size + 1)]
    uneven = [0, *sorted((7 * r * r) % (VOCAB + 1) for r in range(1, size)), VOCAB]
    empty = [0, *(0 if r % 2 else VOCAB // 2 for r in range(size - 1)), VOCAB]
    padding = [*(VOCAB * r // max(size - 1, 1) for r in range(size)), VOCAB]
    bounds = sorted({"even": even, "uneven": uneven, "empty": empty, "reversed": even, "padding": padding}[kind])
    place = size - 1 - rank if kind == "reversed" else rank
    return bounds[place], bounds[place + 1]


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def forward(group, size, rank, wanted, samples):
    for kind in ("even", "uneven", "empty", "reversed", "padding"):
        first, last = split(size, rank, kind)
        own = {"group": group, "first_id": first, "vocab_size": VOCAB}
        padded = torch.cat([WEIGHT[first:last], torch.full((3, WEIGHT.shape[1]), torch.nan).bfloat16()])
        weight = padded if last == VOCAB else WEIGHT[first:last]
        got = parallel.score(HIDDEN, weight, IDS, mask=MASK, outputs=list(OUTPUTS), top_k=TOP_K, **OPTIONS, **own)
        for name in (*OUTPUTS, "top_k_ids", "top_k_logprobs"):
            check(same(getattr(got, name), wanted[name]), f"{kind} {size} {name}")
        for cuts, expected in samples:
            drawn = parallel.sample(HIDDEN, weight, **DRAWS, **OPTIONS, **cuts, **own)
            check(all(map(torch.equal, drawn[:-1], expected[:-1])), f"{kind} {size} {cuts}")
    even = parallel.linear_logprobs(HIDDEN, WEIGHT[slice(*split(size, rank, "even"))], IDS, group=group)
    check(torch.equal(even.logprobs, by_one_process()), "first_id by default")


def gradients(group, size, rank, wanted):
    for kind in ("even", "uneven", "empty", "reversed"):
        first, last = split(size, rank, kind)
        hidden, weight = HIDDEN.clone().requires_grad_(), WEIGHT[first:last].clone().requires_grad_()
        bias = torch.zeros(last - first).requires_grad_()
        own = {"group": group, "first_id": first, "vocab_size": VOCAB, "bias": bias, "gradients": "exact"}
        got = parallel.score(hidden, weight, IDS, outputs=("logprobs", "entropy"), **own)
        (got.logprobs.sum() - 2 * got.entropy.sum()).backward()
        of_all = (wanted[0], wanted[1][first:last], wanted[2][first:last])
        for leaf, expected in zip((hidden, weight, bias), of_all, strict=True):
            check(torch.equal(leaf.grad, expected), f"gradients {kind} {size}")
        hidden.grad = None
        loss = parallel.linear_cross_entropy(hidden, weight, IDS, z_loss=0.1, **own)
        whole = HIDDEN.clone().requires_grad_()
        expected = isologit.linear_cross_entropy(whole, WEIGHT, IDS, z_loss=0.1, gradients="exact")
        loss.backward()
        expected.backward()
        check(torch.equal(loss, expected) and torch.equal(hidden.grad, whole.grad), f"loss {kind} {size}")


def own_rows(group, size, rank):
    """Each rank has rows of its own, one of them none where there are more ranks than rows."""
    rows = slice(4 * rank // size, 4 * (rank + 1) // size)
    first, last = split(size, rank, "uneven")
    hidden, weight = HIDDEN[rows].clone().requires_grad_(), WEIGHT[first:last].clone().requires_grad_()
    own = {"group": group, "first_id": first, "vocab_size": VOCAB, "rows": "own", "scale": 0.375}
    temperature = OPTIONS["temperature"][rows]
    got = parallel.score(
        hidden, weight, IDS[rows], outputs=("logprobs", "lse"), gradients="exact", temperature=temperature, **own
    )
    whole, everything = HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    expected = isologit.score(whole, everything, IDS, outputs=("logprobs", "lse"), gradients="exact", **OPTIONS)
    check(torch.equal(got.logprobs, expected.logprobs[rows]) and torch.equal(got.lse, expected.lse[rows]), "own rows")
    (got.logprobs.sum() + 3 * got.lse.sum()).backward()
    (expected.logprobs.sum() + 3 * expected.lse.sum()).backward()
    check(torch.equal(hidden.grad, whole.grad[rows]), "dhidden of own rows")
    check(torch.equal(weight.grad, everything.grad[first:last]), "dweight of own rows")
    draws = {**DRAWS, "sequence_id": DRAWS["sequence_id"][rows]}
    drawn = parallel.sample(hidden, weight, **draws, temperature=temperature, top_p=0.9, **own)
    expected = isologit.sample(HIDDEN, WEIGHT, **DRAWS, **OPTIONS, top_p=0.9)
    check(torch.equal(drawn.ids, expected.ids[rows]), "draws of own rows")


def blocks_of_ranks(rank, size):
    """Ranks with three blocks, one and two."""
    bounds = ([0, 3, 3, 9], [9, 20], [20, 21, 30])[rank]
    weights = [WEIGHT[f:n].clone().requires_grad_() for f, n in zip(bounds, bounds[1:], strict=False)]
    hidden, whole, everything = HIDDEN.clone().requires_grad_(), HIDDEN.clone().requires_grad_(), WEIGHT.clone()
    got = parallel.linear_logprobs(hidden, weights if rank != 1 else weights[0], IDS, gradients="exact")
    expected = isologit.linear_logprobs(whole, everything.requires_grad_(), IDS, gradients="exact")
    check(torch.equal(got.logprobs, expected.logprobs), "logprobs of blocks")
    got.logprobs.sum().backward()
    expected.logprobs.sum().backward()
    check(torch.equal(hidden.grad, whole.grad), "dhidden of blocks")
    dweight = torch.cat([weight.grad for weight in weights])
    check(torch.equal(dweight, everything.grad[bounds[0] : bounds[-1]]), "dweight of blocks")
    drawn = parallel.sample(hidden, weights, **DRAWS, top_p=0.9)
    check(torch.equal(drawn.ids, isologit.sample(HIDDEN, WEIGHT, **DRAWS, top_p=0.9).ids), "draws of blocks")
    return "right"


def low_rank(rank, size):
    """A low-rank addition: all have its a, and each rank the rows of b that its weight's are."""
    generator = torch.Generator().manual_seed(4)
    a, b = torch.randn(3, WEIGHT.shape[1], generator=generator), torch.randn(VOCAB, 3, generator=generator).bfloat16()
    outputs = {"outputs": ("logprobs", "entropy"), "gradients": "exact"}

    def made(score, hidden, weight, a, b, ids, **options):
        leaves = [x.detach().clone().requires_grad_() for x in (hidden, weight, a, b)]
        got = score(*leaves[:2], ids, lora=(*leaves[2:], 1 / 3), **{**outputs, **options})
        (got.logprobs.sum() - 2 * got.entropy.sum()).backward()
        return got, [leaf.grad for leaf in leaves]

    expected, of_all = made(isologit.score, HIDDEN, WEIGHT, a, b, IDS)
    for kind in ("even", "uneven", "empty", "reversed"):
        first, last = split(size, rank, kind)
        place = {"first_id": first, "vocab_size": VOCAB}
        for rows, chosen in (("same", slice(None)), ("own", slice(4 * rank // size, 4 * (rank + 1) // size))):
            operands = (HIDDEN[chosen], WEIGHT[first:last], a, b[first:last])
            got, found = made(parallel.score, *operands, IDS[chosen], rows=rows, **place)
            check(torch.equal(got.entropy, expected.entropy[chosen]), f"low rank, {kind} {rows}")
            check(torch.equal(got.logprobs, expected.logprobs[chosen]), f"low rank, {kind} {rows}")
            wanted = (of_all[0][chosen], of_all[1][first:last], of_all[2], of_all[3][first:last])
            for name, left, right in zip(("dhidden", "dweight", "da", "db"), found, wanted, strict=True):
                check(torch.equal(left, right), f"{name} of a low-rank addition, {kind} {rows}")
        fast = made(parallel.score, HIDDEN, *operands[1:], IDS, gradients="fast", **place)[1][2]
        everyones = [None] * size
        dist.all_gather_object(everyones, fast)
        check(all(torch.equal(one, fast) for one in everyones), f"fast da on all ranks, {kind}")
        check((fast - of_all[2]).abs().max() <= 1e-5 * of_all[2].abs().max(), f"fast da, {kind}")
        drawn = parallel.sample(HIDDEN, operands[1], lora=(a, operands[3], 1 / 3), **DRAWS, **place)
        check(torch.equal(drawn.ids, isologit.sample(HIDDEN, WEIGHT, lora=(a, b, 1 / 3), **DRAWS).ids), "draws")
    sharded_b = distribute_tensor(b, init_device_mesh("cpu", (size,)), [Shard(0)])
    sharded_weight = distribute_tensor(WEIGHT, sharded_b.device_mesh, [Shard(0)])
    _, found = made(parallel.score, HIDDEN, sharded_weight, a, sharded_b, IDS)
    check(torch.equal(found[3].full_tensor(), of_all[3]) and torch.equal(found[2], of_all[2]), "DTensors")
    return "right"


def given_logits(group, size, rank):
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(1))
    for kind in ("even", "reversed"):
        first, last = split(size, rank, kind)
        for name, ids in (("logprobs_of_logits", (IDS,)), ("entropy_of_logits", ()), ("lse_of_logits", ())):
            whole, own = logits.clone().requires_grad_(), logits[:, first:last].clone().requires_grad_()
            expected = getattr(isologit, name)(whole, *ids, temperature=0.7)
            got = getattr(parallel, name)(own, *ids, temperature=0.7, group=group, first_id=first, vocab_size=VOCAB)
            check(torch.equal(got, expected), f"{name} {kind} {size}")
            (3 * expected).sum().backward()
            (3 * got).sum().backward()
            check(torch.equal(own.grad, whole.grad[:, first:last]), f"{name} backward {kind} {size}")


@functools.cache
def by_one_process():
    """Logprobs; called before ranks are forked, it also loads what torch loads at its first operator."""
    return isologit.linear_logprobs(HIDDEN, WEIGHT, IDS, threads=1).logprobs


@functools.cache
def by_the_contract():
    """Once, before ranks are forked: exact numbers by Python take seconds."""
    dz = dz_of(HIDDEN, WEIGHT, None, IDS[:, None], torch.ones(4, 1), torch.zeros(4), torch.full((4,), -2.0))
    return wanted_of(HIDDEN, WEIGHT, IDS[:, None], MASK), by_definition.gradients(dz, HIDDEN, WEIGHT)


def results(rank, size):
    wanted, of_gradients = by_the_contract()
    cuts = ({}, {"top_p": 0.8}, {"top_k": 4, "min_p": 0.01}, {"top_k": 7, "top_p": 0.5})
    samples = [(cut, isologit.sample(HIDDEN, WEIGHT, **DRAWS, **OPTIONS, **cut)) for cut in cuts]
    groups = {n: dist.new_group(list(range(n))) for n in SIZES}
    for n in SIZES:
        if rank < n:
            forward(groups[n], n, rank, wanted, samples)
            gradients(groups[n], n, rank, of_gradients)
            own_rows(groups[n], n, rank)
            given_logits(groups[n], n, rank)
    return "right"


def sharded(rank, size):
    """Weights that say themselves where they lie."""
    mesh = init_device_mesh("cpu", (size,))
    expected = by_one_process()
    whole = WEIGHT.clone().requires_grad_()
    isologit.linear_logprobs(HIDDEN, whole, IDS, gradients="exact").logprobs.sum().backward()
    weight = distribute_tensor(WEIGHT, mesh, [Shard(0)]).requires_grad_()
    got = parallel.linear_logprobs(HIDDEN, weight, IDS, gradients="exact")
    check(torch.equal(got.logprobs, expected), "a DTensor")
    got.logprobs.sum().backward()
    check(torch.equal(weight.grad.full_tensor(), whole.grad), "the gradient of a DTensor")
    with contextlib.suppress(NotImplementedError):
        parallel.linear_logprobs(HIDDEN, distribute_tensor(WEIGHT, mesh, [Replicate()]), IDS)
        check(False, "a DTensor that is not split")
    module = torch.nn.Linear(WEIGHT.shape[1], VOCAB, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        module.weight.copy_(WEIGHT)
    fully_shard(module, mesh=mesh)
    got = parallel.linear_logprobs(HIDDEN[rank : rank + 1], module.weight, IDS[rank : rank + 1], rows="own")
    check(torch.equal(got.logprobs, expected[rank : rank + 1]), "a head of fully_shard")
    rows = -(-VOCAB // size)
    first = rows * rank
    indices = SimpleNamespace(org_vocab_start_index=first, org_vocab_end_index=min(first + rows, VOCAB))
    padded = torch.nn.functional.pad(WEIGHT, (0, 0, 0, 64))[first : first + rows + 8]
    vllm = SimpleNamespace(weight=padded, shard_indices=indices, num_embeddings=VOCAB, org_vocab_size=VOCAB)
    check(torch.equal(parallel.linear_logprobs(HIDDEN, vllm, IDS).logprobs, expected), "a head of vLLM")
    added_ids(rank, size, expected, whole.grad)
    return "right"


def added_ids(rank, size, expected, dweight):
    """A head of vLLM with 20 ids and 10 that were added, each part padded to a multiple of 6 and split in three."""
    first, last, more, end = ((0, 8, 20, 24), (8, 16, 24, 28), (16, 20, 28, 30))[rank]
    indices = SimpleNamespace(
        org_vocab_start_index=first,
        org_vocab_end_index=last,
        padded_org_vocab_start_index=8 * rank,
        padded_org_vocab_end_index=8 * rank + 8,
        added_vocab_start_index=more,
        added_vocab_end_index=end,
    )
    weight = torch.full((12, WEIGHT.shape[1]), torch.nan).bfloat16()
    weight[: last - first], weight[8 : 8 + end - more] = WEIGHT[first:last], WEIGHT[more:end]
    weight.requires_grad_()
    module = SimpleNamespace(weight=weight, shard_indices=indices, num_embeddings=VOCAB, org_vocab_size=20)
    got = parallel.linear_logprobs(HIDDEN, module, IDS, gradients="exact")
    check(torch.equal(got.logprobs, expected), "added ids")
    got.logprobs.sum().backward()
    check(torch.equal(weight.grad[: last - first], dweight[first:last]), "dweight of the original ids")
    check(torch.equal(weight.grad[8 : 8 + end - more], dweight[more:end]), "dweight of the added ids")
    check(
        torch.equal(weight.grad[last - first : 8], torch.zeros(8 - last + first, 12).bfloat16()), "dweight of padding"
    )
    drawn = parallel.sample(HIDDEN, module, **DRAWS, top_p=0.9)
    check(torch.equal(drawn.ids, isologit.sample(HIDDEN, WEIGHT, **DRAWS, top_p=0.9).ids), "draws of added ids")
    some = isologit.linear_logprobs(HIDDEN, WEIGHT[:20], IDS % 20).logprobs
    got = parallel.linear_logprobs(HIDDEN, module, IDS % 20, vocab_size=20)
    check(torch.equal(got.logprobs, some), "the original ids alone")


def adapters(rank, size):
    """Those of trainers, over a tensor-parallel group."""
    from isologit.integrations import areal, megatron, miles, slime

    group = dist.group.WORLD
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(1))
    logprobs, entropy = isologit.logprobs_of_logits(logits, IDS), isologit.entropy_of_logits(logits)
    own = logits[:, rank * 10 : rank * 10 + 10].clone()
    for found in (
        areal.gather_logprobs_entropy(own, IDS, 1.0, group),
        slime.calculate_log_probs_and_entropy(own, IDS, group, True),
        miles.calculate_log_probs_and_entropy(own, IDS, group, True, vocab_size=VOCAB, true_on_policy=True),
    ):
        check(torch.equal(found[0].reshape(4), logprobs) and torch.equal(found[1], entropy), "an adapter of logits")
    weight = WEIGHT[rank * 10 : rank * 10 + 10].clone().requires_grad_()
    layer = SimpleNamespace(weight=weight, tp_group=group, bias=None, sequence_parallel=False)
    scores = megatron.output_processor(
        hidden_states=HIDDEN[:, None], output_layer=layer, output_weight=None, labels=IDS[None]
    )
    check(torch.equal(scores.logprobs, by_one_process()[None]), "Megatron's head")
    scores.logprobs.sum().backward()
    check(weight.grad.abs().max() > 0, "Megatron's gradient")
    megatrons_split_sequence(megatron, rank, size, layer)
    return "right"


def megatrons_split_sequence(megatron, rank, size, layer):
    """With sequence_parallel a rank has hidden states [s / ranks, b, H]; labels and results are of all the sequence."""
    layer.sequence_parallel = True
    layer.weight.grad = None
    hidden = torch.cat([HIDDEN, HIDDEN.flip(0)]).reshape(-1, 2, HIDDEN.shape[1])[:size].clone()
    labels = (7 * torch.arange(2 * size)).reshape(2, size) % VOCAB
    outputs = {"outputs": ("logprobs", "entropy", "rank"), "top_k": 3, "gradients": "exact"}
    temperature = torch.linspace(0.5, 2.0, 2 * size).reshape(2, size)
    own = hidden[rank : rank + 1].clone().requires_grad_()
    got = megatron.output_processor(
        hidden_states=own,
        output_layer=layer,
        output_weight=None,
        labels=labels,
        context={**outputs, "temperature": temperature},
    )
    whole, weight = hidden.requires_grad_(), WEIGHT.clone().requires_grad_()
    expected = isologit.score(whole.transpose(0, 1), weight, labels, temperature=temperature, **outputs)
    for name in ("logprobs", "entropy", "rank", "top_k_ids", "top_k_logprobs"):
        check(torch.equal(getattr(got, name), getattr(expected, name)), f"{name} of a split sequence")
    of_rows = torch.linspace(-1, 1, 2 * size).reshape(2, size)
    for found in (got, expected):
        ((found.logprobs * of_rows).sum() + found.entropy.square().sum() + found.top_k_logprobs.sum()).backward()
    check(torch.equal(own.grad, whole.grad[rank : rank + 1]), "dhidden of a split sequence")
    check(torch.equal(layer.weight.grad, weight.grad[rank * 10 : rank * 10 + 10]), "dweight of a split sequence")


def bytes_of_rows(rank, size):
    """What this rank hands to collectives for a row more, of each call; for a vocabulary of 100 and of 4000 ids."""
    sent = []
    all_gather, all_to_all = _exchange.Exchange._all_gather, _exchange.Exchange._all_to_all

    def counted_all_to_all(self, own, sizes):
        sent.append(sum(map(len, own)) - len(own[rank]))
        return all_to_all(self, own, sizes)

    _exchange.Exchange._all_gather = lambda self, own, length: sent.append(length) or all_gather(self, own, length)
    _exchange.Exchange._all_to_all = counted_all_to_all

    def backward(hidden, weight, ids, gradients, rows="same"):
        if rows == "own":
            hidden, ids = hidden.chunk(size)[rank].clone(), ids.chunk(size)[rank]
        hidden.requires_grad_()
        logprobs = parallel.linear_logprobs(hidden, weight, ids, gradients=gradients, rows=rows).logprobs
        del sent[:]
        logprobs.sum().backward()

    def sample(hidden, weight, **cuts):
        parallel.sample(hidden, weight, seed=1, sequence_id=torch.arange(len(hidden)), position=0, **cuts)

    calls = {
        "logprobs": lambda h, w, ids: parallel.linear_logprobs(h, w, ids),
        "top-8": lambda h, w, ids: parallel.score(h, w, outputs=(), top_k=8),
        "exact backward": lambda h, w, ids: backward(h, w, ids, "exact"),
        "fast backward": lambda h, w, ids: backward(h, w, ids, "fast"),
        "exact backward of own rows": lambda h, w, ids: backward(h, w, ids, "exact", "own"),
        "fast backward of own rows": lambda h, w, ids: backward(h, w, ids, "fast", "own"),
        "sample": lambda h, w, ids: sample(h, w),
        "sample of top-8": lambda h, w, ids: sample(h, w, top_k=8),
    }
    found = {}
    for name, call in calls.items():
        for vocab in (100, 4000):
            totals = []
            for rows in (100, 300):
                generator = torch.Generator().manual_seed(2)
                hidden = torch.randn(rows, 8, generator=generator)
                ids = torch.randint(0, vocab, (rows,), generator=generator)
                weight = torch.randn(vocab // size, 8, generator=generator.manual_seed(rank))
                del sent[:]
                call(hidden, weight, ids)
                totals.append(sum(sent))
            found.setdefault(name, []).append((totals[1] - totals[0]) / 200)
    return found


def lags(rank, size):
    """Within the time-out: nothing but a wait."""
    time.sleep(0.5 * (rank == 1))
    got = parallel.linear_logprobs(HIDDEN, WEIGHT[rank * 10 : rank * 10 + 10], IDS)
    check(torch.equal(got.logprobs, by_one_process()), "after a wait")
    return "right"
