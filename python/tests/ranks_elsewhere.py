"""Three ranks of isologit.parallel whose tensors are on another device, over a backend that takes tensors of this
device alone, as NCCL does, and over gloo. Prints, in JSON, for each rank {case: what is wrong}."""

import contextlib
import functools
from types import SimpleNamespace

import forked
import other_device
import torch
import torch.distributed as dist
from expected import same_bits
from test_score import TEMPERATURES, VOCAB, head

import isologit
from isologit import parallel
from isologit._score import OUTPUTS
from isologit.integrations import megatron
from isologit.parallel import _elsewhere, _exchange
from isologit.torch_backend import backward as torch_backend_backward
from isologit.torch_backend import limits

RANKS = 3
HIDDEN, WEIGHT, IDS, MASK = head(6)
IDS = IDS.clone()
BIAS = torch.linspace(-1, 1, VOCAB)
OPTIONS = {"scale": 0.375, "softcap": 5.0, "temperature": torch.tensor(TEMPERATURES)}
DRAWS = {"seed": 5, "sequence_id": torch.arange(4), "position": 9}
SPLITS = {"even": [0, 10, 20, 30], "uneven": [0, 0, 23, 30], "reversed": [0, 10, 20, 30], "padding": [0, 17, 30, 30]}
SPLITS["of two"] = [0, 13, 30]
CUTS = ({}, {"top_p": 0.8}, {"top_k": 4, "min_p": 0.01}, {"top_k": 7, "top_p": 0.5})


class OfDevice(dist.ProcessGroup):
    """Collectives of the device's tensors, by gloo; those of the CPU's are refused."""

    def __init__(self, store, rank, size, timeout):
        super().__init__(rank, size)
        self.gloo = dist.ProcessGroupGloo(store, rank, size, timeout=timeout)

    def getBackendName(self):  # noqa: N802
        return "of_device"

    def allgather(self, outputs, inputs, options=None):
        return self.gloo.allgather([list(map(_held, outputs[0]))], [_held(inputs[0])])

    def alltoall_base(self, output, given, output_sizes, input_sizes, options=None):
        return self.gloo.alltoall_base(_held(output), _held(given), output_sizes, input_sizes)


def _held(x):
    if not isinstance(x, other_device.Elsewhere):
        raise RuntimeError(f"of_device: a collective of a tensor on {x.device}")
    return x.held


def there(x):
    if isinstance(x, dict):
        return {name: there(one) for name, one in x.items()}
    return x.to(other_device.device()) if isinstance(x, torch.Tensor) else x


def part_of(rank, size, kind):
    bounds = SPLITS[kind]
    at = size - 1 - rank if kind == "reversed" else rank
    return bounds[at], bounds[at + 1]


def wrong(named):
    """Those of {name: (found on the device, right)} that are not the same there."""
    device = other_device.device()
    return [
        name for name, (found, right) in named.items() if found.device != device or not same_bits(found.cpu(), right)
    ]


LISTS = {"kept": [list(range(n, VOCAB, 2)) for n in range(4)], "banned": [[n, 9] for n in range(4)]}
SOME = IDS.clone()  # the id of one row is left out
SOME[1] = -100
SEVERAL = torch.stack([SOME, IDS, IDS * 0], 1)


def calls(functions, at, weight, bias, **place):
    """By name the results of everything, `at` says where."""
    hidden, own = at(HIDDEN), {"bias": at(bias), **at(OPTIONS), **place}
    asked = {"outputs": list(OUTPUTS), "top_k": 5}
    found = functions.score(hidden, at(weight), at(SOME), mask=at(MASK), **asked, **own)
    named = {name: getattr(found, name) for name in (*OUTPUTS, "top_k_ids", "top_k_logprobs", "counts")}
    named["logprobs of lists"] = functions.score(hidden, at(weight), at(SEVERAL), **LISTS, **own).logprobs
    for cuts in CUTS:
        drawn = functions.sample(hidden, at(weight), mask=at(MASK), **at(DRAWS), **cuts, **own)
        for name in ("ids", "logprobs", "cut_logprobs", "log_kept_cut"):
            named[f"{name} of draws by {cuts}"] = getattr(drawn, name)
    return named


@functools.cache
def right():
    """Of one process; before ranks are forked, which also loads what torch loads at its first operators."""
    return calls(isologit, lambda x: x, WEIGHT, BIAS)


@functools.cache
def right_gradients():
    """Without a mask, and with it; in each rank, since autograd's threads do not live through a fork."""
    of_rows = torch.linspace(-1, 1, 4)
    return [made(isologit, HIDDEN, WEIGHT, BIAS, IDS, of_rows, "exact", mask=m, **OPTIONS) for m in (None, MASK)]


def scores(place, first, last):
    weight, bias = WEIGHT[first:last], BIAS[first:last]
    if last == VOCAB:  # padding
        weight = torch.cat([weight, torch.full((3, 12), torch.nan).bfloat16()])
        bias = torch.cat([bias, torch.zeros(3)])
    found = calls(parallel, there, weight, bias, **place)
    report = isologit.Report.of(found.pop("counts"))
    told = [] if (report.kernel, report.arithmetic, report.rows) == ("torch", "exact", 3) else [f"report {report}"]
    return told + wrong({name: (value, right()[name]) for name, value in found.items()})


def made(functions, hidden, weight, bias, ids, of_rows, gradients, **options):
    """Gradients of some results, for upstreams [N] and others."""
    leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    asked = {"outputs": ("logprobs", "entropy", "mean_logits"), "top_k": 3, "gradients": gradients}
    found = functions.score(*leaves[:2], ids, bias=leaves[2], **asked, **options)
    loss = (found.logprobs * of_rows).sum() - 2 * (found.entropy * of_rows).sum() + found.mean_logits.sum()
    (loss + (found.top_k_logprobs[:, 1] * of_rows).sum()).backward()
    return [leaf.grad for leaf in leaves]


def gradients_of(place, first, last, chosen, beside):
    """Exact ones are those of one process; fast ones are near them, and dhidden is the same on all ranks. `chosen` are
    the rows of this rank, or all on every rank; `beside` is a group of the same ranks for what the test tells."""
    problems, rows, of_rows = [], "same" if chosen == slice(None) else "own", torch.linspace(-1, 1, 4)
    for mask, whole in zip((None, MASK) if rows == "same" else (None,), right_gradients(), strict=False):
        expected = whole[0][chosen], whole[1][first:last], whole[2][first:last]
        own = {**OPTIONS, "temperature": OPTIONS["temperature"][chosen], "mask": mask}
        for kind in ("exact", "fast"):
            operands = (HIDDEN[chosen], WEIGHT[first:last], BIAS[first:last], IDS[chosen], of_rows[chosen])
            with by_copies() as copied:
                found = made(parallel, *map(there, operands), kind, rows=rows, **place, **there(own))
            problems += [f"{kind} gradients by copies: {copied}"] * (copied != (["exact"] if kind == "exact" else []))
            for what, got, exact in zip(("dhidden", "dweight", "dbias"), found, expected, strict=True):
                assert got.device == other_device.device() and got.dtype == exact.dtype
                near = torch.allclose(got.cpu().float(), exact.float(), rtol=2**-7, atol=2**-12)
                if not (near if kind == "fast" else same_bits(got.cpu(), exact)):
                    problems.append(f"{kind} {what} of {rows} rows, mask {mask is not None}")
            if rows == "same":
                every = [None] * dist.get_world_size(beside)
                dist.all_gather_object(every, found[0].cpu(), group=beside)
                problems += [f"{kind} dhidden differs"] * any(not same_bits(one, every[0]) for one in every)
    return problems


@contextlib.contextmanager
def by_copies():
    """Which gradients are made by the core, of copies on the CPU."""
    kinds, make = [], torch_backend_backward.by_core

    def by_core(run, wanted, *parts):
        kinds.append(wanted.gradients)
        return make(run, wanted, *parts)

    torch_backend_backward.by_core = by_core
    try:
        yield kinds
    finally:
        torch_backend_backward.by_core = make


def of_ties(place, first, last):
    """Fast gradients of rows that hold their top more than once, which leave no summary."""
    alike, expected = WEIGHT[:1].expand(VOCAB, -1).clone(), torch.zeros(VOCAB, 12)
    hidden, weight = (there(x.clone()).requires_grad_() for x in (HIDDEN, alike[first:last]))
    with by_copies() as copied:
        parallel.linear_logprobs(hidden, weight, there(IDS), **place).logprobs.sum().backward()
    for n in range(4):
        expected[IDS[n]] += HIDDEN[n].float()
        expected -= HIDDEN[n].float() / VOCAB
    near = torch.allclose(weight.grad.cpu().float(), expected[first:last], rtol=2**-7, atol=2**-9)
    return [] if near and copied == ["fast"] else [f"ties: near {near}, by copies {copied}"]


def given_logits(place, first, last):
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(1))
    named = {}
    for name, ids in (("logprobs_of_logits", (IDS,)), ("entropy_of_logits", ()), ("lse_of_logits", ())):
        whole, own = logits.clone().requires_grad_(), there(logits[:, first:last].clone()).requires_grad_()
        expected = getattr(isologit, name)(whole, *ids, temperature=0.7)
        found = getattr(parallel, name)(own, *map(there, ids), temperature=0.7, **place)
        (3 * expected).sum().backward()
        (3 * found).sum().backward()
        named |= {name: (found.detach(), expected.detach()), f"d of {name}": (own.grad, whole.grad[:, first:last])}
    return wrong(named)


def modules(place, rank):
    """Heads of vLLM, several blocks a rank, Megatron's hook, cross entropy."""
    first, last = 10 * rank, 10 * rank + 10
    logprobs = isologit.linear_logprobs(HIDDEN, WEIGHT, IDS).logprobs
    indices = SimpleNamespace(org_vocab_start_index=first, org_vocab_end_index=last)
    padded = there(torch.nn.functional.pad(WEIGHT[first:last], (0, 0, 0, 4)))
    vllm = SimpleNamespace(weight=padded, shard_indices=indices, num_embeddings=VOCAB, org_vocab_size=VOCAB)
    group = {"group": place["group"]}
    named = {"vLLM's": (parallel.linear_logprobs(there(HIDDEN), vllm, there(IDS), **group).logprobs, logprobs)}
    several = [there(WEIGHT[first : first + 4].clone()).requires_grad_(), there(WEIGHT[first + 4 : last].clone())]
    hidden, whole = there(HIDDEN.clone()).requires_grad_(), [HIDDEN.clone().requires_grad_(), WEIGHT.clone()]
    losses = {"gradients": "exact", "z_loss": 0.1}
    loss = parallel.linear_cross_entropy(hidden, several, there(IDS), **losses, **group)
    expected = isologit.linear_cross_entropy(whole[0], whole[1].requires_grad_(), IDS, **losses)
    loss.backward()
    expected.backward()
    named |= {"a loss": (loss.detach(), expected.detach()), "its dhidden": (hidden.grad, whole[0].grad)}
    named["its dweight"] = several[0].grad.clone(), whole[1].grad[first : first + 4]
    exactly, hidden.grad = hidden.grad, None
    parallel.linear_cross_entropy(hidden, several, there(IDS), z_loss=0.1, **group).backward()
    assert torch.allclose(hidden.grad.cpu().float(), exactly.cpu().float(), rtol=2**-7, atol=2**-12)
    weight, sums = there(WEIGHT[first:last].clone()).requires_grad_(), there(torch.ones(10, 12))
    exact = {"gradients": "exact"}
    parallel.linear_logprobs(
        there(HIDDEN), weight, there(IDS), dweight_accumulate=sums, **exact, **group
    ).logprobs.sum().backward()
    weight, whole_sums = WEIGHT.clone().requires_grad_(), torch.ones(VOCAB, 12)
    isologit.linear_logprobs(HIDDEN, weight, IDS, dweight_accumulate=whole_sums, **exact).logprobs.sum().backward()
    named["sums of dweight"] = sums, whole_sums[first:last]
    nothing = parallel.score(there(HIDDEN[:0]), there(WEIGHT[first:last]), there(IDS[:0]), **group)
    drawn = parallel.sample(there(HIDDEN[:0]), there(WEIGHT[first:last]), seed=1, sequence_id=2, position=3, **group)
    assert nothing.logprobs.shape == drawn.ids.shape == (0,)
    layer = SimpleNamespace(
        weight=there(WEIGHT[first:last]), tp_group=place["group"], bias=None, sequence_parallel=False
    )
    of_megatron = {"hidden_states": there(HIDDEN[:, None]), "output_weight": None, "labels": there(IDS[None])}
    named["Megatron's"] = megatron.output_processor(output_layer=layer, **of_megatron).logprobs, logprobs[None]
    return wrong(named)


def refused(place, rank):
    """What is told of what does not go."""
    first, last = 10 * rank, 10 * rank + 10
    hidden, weight, ids = there(HIDDEN), there(WEIGHT[first:last]), there(IDS)
    factors = there(torch.ones(1, 12)), there(torch.ones(10, 1)), 1.0
    cases = {
        "lora": lambda: parallel.linear_logprobs(hidden, weight, ids, lora=factors, **place),
        "fast gradients": lambda: parallel.linear_logprobs(
            hidden.clone().requires_grad_(), weight, ids, arithmetic="fast", **place
        ),
        "two devices": lambda: parallel.linear_logprobs(hidden, weight.cpu(), ids, **place),
        "a rank on the CPU": lambda: (
            parallel.linear_logprobs(HIDDEN, WEIGHT[first:last], IDS, **place)
            if rank == 1
            else parallel.linear_logprobs(hidden, weight, ids, **place)
        ),
    }
    found = {}
    for name, call in cases.items():
        try:
            call()
            found[name] = "nothing"
        except (NotImplementedError, ValueError, parallel.ParallelError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


@contextlib.contextmanager
def rows_at_a_time(count):
    """So few logits at a time that a call takes several; what is made is looked at."""
    former, make = limits.ROWS, _elsewhere._logits.logits

    def made(hidden, *arguments, **options):
        found = make(hidden, *arguments, **options)
        assert found.numel() * 4 <= limits.ROWS, f"logits {list(found.shape)}"
        return found

    limits.ROWS, _elsewhere._logits.logits = count, made
    try:
        yield
    finally:
        limits.ROWS, _elsewhere._logits.logits = former, make


def work(rank):
    other_device.device()
    dist.Backend.register_backend("of_device", OfDevice, devices=[other_device.NAME])
    found = {}
    for backend in ("of_device", "gloo"):
        for kind in SPLITS if backend == "of_device" else ("even",):
            bounds = SPLITS[kind]
            size = len(bounds) - 1
            ranks = list(range(size))
            group, beside = dist.new_group(ranks, backend=backend), dist.new_group(ranks)
            if rank >= size:
                continue
            exchange = _exchange.Exchange("a test", group, other_device.device())
            taken = exchange._device.type
            first, last = part_of(rank, size, kind)
            place = {"group": group, "first_id": first, "vocab_size": VOCAB}
            wrong_here = [] if taken == (other_device.NAME if backend == "of_device" else "cpu") else [taken]
            with rows_at_a_time(4 * 2 * 23):
                wrong_here += scores(place, first, last)
            for chosen in (slice(None), slice(4 * rank // size, 4 * (rank + 1) // size)):
                wrong_here += gradients_of(place, first, last, chosen, beside)
            if kind in ("even", "reversed", "of two"):
                wrong_here += given_logits(place, first, last)
            if kind == "even":
                wrong_here += modules(place, rank) + of_ties(place, first, last)
                found[f"refused over {backend}"] = refused(place, rank)
            found[f"{kind} over {backend}"] = wrong_here
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    right()
    forked.say(work, RANKS)
