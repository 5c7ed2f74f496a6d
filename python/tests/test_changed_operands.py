"""What is written to between forward and backward, and what is left after a backward that fails."""

import signal
import tracemalloc

import pytest

torch = pytest.importorskip("torch")
from expected import same_bits  # noqa: E402
from gradient_problem import ROWS, SIZE, VOCAB, random_mask, tensors  # noqa: E402

import isologit  # noqa: E402


def operands():
    hidden, weight, bias, ids = tensors(bias_dtype=torch.float32)
    return {
        "hidden": hidden,
        "weight": weight,
        "bias": bias,
        "temperature": torch.linspace(0.5, 2.0, ROWS),
        "token_ids": ids,
        "mask": random_mask(),
    }


def forward(of, **options):
    rest = {name: of[name] for name in ("bias", "temperature", "mask")}
    return isologit.linear_logprobs(of["hidden"], of["weight"], of["token_ids"], **rest, **options).logprobs.sum()


def next_bits(tensor):
    """Another value at one place, the nearest that there is."""
    words = tensor.data.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
    words[(-1,) * words.dim()] ^= 1


CHANGES = {
    "one value": next_bits,
    "rows in another order": lambda tensor: tensor.data.copy_(tensor.data.flip(0)),
    "all of it": lambda tensor: tensor.data.copy_(torch.zeros_like(tensor)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", operands())
def test_backward_refuses_an_operand_that_was_written_to_unseen(name, change):
    of = operands()
    buffer = torch.ones(VOCAB, SIZE)
    losses = [forward(of), forward(of, dweight_accumulate=buffer)]
    kept = of[name].detach().clone()
    CHANGES[change](of[name])
    assert not torch.equal(of[name], kept)
    told = {"token_ids": "the support, token_ids or lora", "mask": "the support, token_ids or lora"}.get(name, name)
    for loss in losses:
        with pytest.raises(ValueError, match=f"{told}: written to since the forward pass"):
            loss.backward(retain_graph=True)
    assert (buffer == 1).all()  # refused before anything is added
    of[name].data.copy_(kept)
    for loss in losses:
        loss.backward()  # as it was


def test_what_was_read_is_the_values_and_not_where_they_lay():
    of = operands()
    wanted = torch.autograd.grad(forward(of), [of["hidden"], of["weight"]])
    loss = forward(of)
    of["weight"].data = of["weight"].detach().clone()
    got = torch.autograd.grad(loss, [of["hidden"], of["weight"]])
    assert all(same_bits(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("columns", [1, 3, 24, 30])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_of_any_width_and_stride_are_read(columns, dtype):
    wide_hidden, wide_weight = torch.randn(6, columns + 3).to(dtype), torch.randn(9, columns + 5).to(dtype)
    for offset in range(3):
        hidden = wide_hidden[:, offset : offset + columns].requires_grad_()
        weight = wide_weight[:, offset : offset + columns].requires_grad_()
        loss = isologit.linear_logprobs(hidden, weight, torch.arange(6)).logprobs.sum()
        wide_weight.data[:, offset + columns :].add_(1)  # beside it
        torch.autograd.grad(loss, [hidden, weight], retain_graph=True)
        next_bits(weight)
        with pytest.raises(ValueError, match="weight: written to"):
            torch.autograd.grad(loss, [hidden, weight])


class Interruption(Exception):
    pass


def test_an_interrupted_backward_marks_the_buffer():
    hidden = torch.randn(32, 256).requires_grad_()
    weight, buffer = torch.randn(20000, 256).requires_grad_(), torch.zeros(20000, 256)
    ids = torch.arange(32)
    scored = isologit.linear_logprobs(hidden, weight, ids, dweight_accumulate=buffer, kernel="reference")

    def interrupt(*_):
        raise Interruption

    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Interruption) as raised:  # minutes of work
            scored.logprobs.sum().backward()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert buffer.isnan().all()
    assert "dweight_accumulate" in "".join(getattr(raised.value, "__notes__", ["dweight_accumulate"]))


def test_what_is_refused_leaves_the_buffer():
    of = operands()
    buffer = of["weight"].detach().clone().float()
    weight = buffer[: VOCAB - 1].requires_grad_()  # backward would write over what it reads
    overlapping = buffer.data[1:]
    before = buffer.clone()
    ids = torch.zeros(ROWS, dtype=torch.int64)
    scored = isologit.linear_logprobs(of["hidden"].detach(), weight, ids, dweight_accumulate=overlapping)
    with pytest.raises(ValueError, match="dweight"):
        scored.logprobs.sum().backward()
    assert same_bits(buffer, before)


def test_a_mask_for_all_rows_is_read_where_it_lies():
    rows, vocab = 512, 4096
    hidden, weight = torch.randn(rows, 8), torch.randn(vocab, 8).requires_grad_()
    mask = torch.rand(vocab) < 0.5
    ids = torch.full((rows,), int(mask.nonzero()[0]))
    keys = {"seed": 1, "sequence_id": 2, "position": torch.arange(rows)}

    def everything(mask):
        scored = isologit.linear_logprobs(hidden, weight, ids, mask=mask, return_entropy=True)
        gradient = torch.autograd.grad(scored.logprobs.sum(), weight)[0]
        drawn = isologit.sample(hidden, weight, mask=mask, **keys)
        return scored.logprobs, scored.entropy, gradient, drawn.ids, drawn.logprobs

    tracemalloc.start()
    try:
        shared = everything(mask)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 30 * vocab  # not 4 * rows * vocab
    assert all(same_bits(a, b) for a, b in zip(shared, everything(mask.expand(rows, vocab)), strict=True))
