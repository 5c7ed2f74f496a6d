"""isologit.parallel of weights in several blocks: the contract's bits, whatever the blocks."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")
if not torch.distributed.is_available():
    pytest.skip("torch has no distributed package here", allow_module_level=True)
from group_results import DRAWS, HIDDEN, IDS, MASK, OPTIONS, WEIGHT, by_the_contract  # noqa: E402
from test_score import TOP_K, VOCAB, same  # noqa: E402

import isologit  # noqa: E402
from isologit import parallel  # noqa: E402
from isologit._score import OUTPUTS  # noqa: E402

# The blocks' bounds; equal ones are a block without rows.
SPLITS = {"one": [0, 30], "two": [0, 11, 30], "uneven": [0, 1, 28, 30], "empty": [0, 0, 11, 11, 30, 30]}
ALONE = {"group": parallel.ALONE}


def parts(tensor, bounds):
    return [tensor[first:last].clone() for first, last in zip(bounds, bounds[1:], strict=False)]


@pytest.mark.parametrize("bounds", SPLITS.values(), ids=SPLITS)
def test_every_output_and_draw(bounds):
    blocks = parts(WEIGHT, bounds)
    blocks[-1] = torch.cat([blocks[-1], torch.full((3, WEIGHT.shape[1]), torch.nan).bfloat16()])
    options = {**OPTIONS, **ALONE, "vocab_size": VOCAB}
    got = parallel.score(HIDDEN, blocks, IDS, mask=MASK, outputs=list(OUTPUTS), top_k=TOP_K, **options)
    wanted = by_the_contract()[0]
    for name in (*OUTPUTS, "top_k_ids", "top_k_logprobs"):
        assert same(getattr(got, name), wanted[name]), name
    for cuts in ({}, {"top_p": 0.8}, {"top_k": 4, "min_p": 0.01}):
        drawn = parallel.sample(HIDDEN, blocks, **DRAWS, **options, **cuts)
        expected = isologit.sample(HIDDEN, WEIGHT, **DRAWS, **OPTIONS, **cuts)
        assert all(map(torch.equal, drawn[:-1], expected[:-1])), cuts


@pytest.mark.parametrize("bounds", SPLITS.values(), ids=SPLITS)
def test_gradients(bounds):
    hidden, weights = HIDDEN.clone().requires_grad_(), [w.requires_grad_() for w in parts(WEIGHT, bounds)]
    biases = [b.requires_grad_() for b in parts(torch.zeros(VOCAB), bounds)]
    got = parallel.score(
        hidden, weights, IDS, bias=biases, outputs=("logprobs", "entropy"), gradients="exact", **ALONE
    )
    (got.logprobs.sum() - 2 * got.entropy.sum()).backward()
    dhidden, dweight, dbias = by_the_contract()[1]
    assert torch.equal(hidden.grad, dhidden)
    assert torch.equal(torch.cat([w.grad for w in weights]), dweight)
    assert torch.equal(torch.cat([b.grad for b in biases]), dbias)


def test_gradients_of_some_blocks_and_into_buffers():
    weights = parts(WEIGHT, [0, 11, 20, 30])
    for weight in weights[1:]:
        weight.requires_grad_()
    buffers = [None, None, torch.ones(10, WEIGHT.shape[1])]
    loss = parallel.linear_cross_entropy(
        HIDDEN, weights, IDS, dweight_accumulate=buffers, gradients="exact", z_loss=0.1, **ALONE
    )
    whole, buffer = WEIGHT.clone().requires_grad_(), torch.ones(VOCAB, WEIGHT.shape[1])
    losses = {"gradients": "exact", "z_loss": 0.1}
    expected = isologit.linear_cross_entropy(HIDDEN, whole, IDS, **losses)
    loss.backward()
    expected.backward()
    isologit.linear_cross_entropy(HIDDEN, whole, IDS, dweight_accumulate=buffer, **losses).backward()
    assert torch.equal(loss, expected)
    assert weights[0].grad is None and torch.equal(weights[1].grad, whole.grad[11:20]) and weights[2].grad is None
    assert torch.equal(buffers[2], buffer[20:])


@pytest.mark.parametrize("bounds", SPLITS.values(), ids=SPLITS)
def test_a_low_rank_addition(bounds):
    generator = torch.Generator().manual_seed(9)
    a, b = torch.randn(4, WEIGHT.shape[1], generator=generator), torch.randn(VOCAB, 4, generator=generator)
    whole = [x.clone().requires_grad_() for x in (HIDDEN, WEIGHT, a, b)]
    wanted = isologit.linear_logprobs(*whole[:2], IDS, lora=(*whole[2:], 0.7), gradients="exact").logprobs
    wanted.sum().backward()
    hidden, own_a = (x.clone().requires_grad_() for x in (HIDDEN, a))
    weights, bs = ([part.requires_grad_() for part in parts(x, bounds)] for x in (WEIGHT, b))
    got = parallel.linear_logprobs(hidden, weights, IDS, lora=(own_a, bs, 0.7), gradients="exact", **ALONE).logprobs
    got.sum().backward()
    found = (hidden.grad, torch.cat([x.grad for x in weights]), own_a.grad, torch.cat([x.grad for x in bs]))
    assert torch.equal(got, wanted) and all(torch.equal(x, y.grad) for x, y in zip(found, whole, strict=True))


def test_a_block_that_was_written_to_is_an_error():
    weights = [weight.requires_grad_() for weight in parts(WEIGHT, [0, 11, 30])]
    got = parallel.linear_logprobs(HIDDEN, weights, IDS, **ALONE)
    weights[1].data[3, 3] += 1
    with pytest.raises(ValueError, match="weight: written to since the forward pass"):
        got.logprobs.sum().backward()


def test_an_error_of_one_block_ends_the_call(monkeypatch):
    """The first block has handed in its state by then, and waits for the others."""
    run = isologit._score.run

    def fails(args, peers):
        if args.head.weight.shape[0] == 19:
            raise MemoryError("no memory")
        return run(args, peers)

    monkeypatch.setattr(isologit._score, "run", fails)
    with pytest.raises(MemoryError, match="no memory"):
        parallel.linear_logprobs(HIDDEN, parts(WEIGHT, [0, 11, 30]), IDS, **ALONE)
    monkeypatch.undo()
    again = parallel.linear_logprobs(HIDDEN, parts(WEIGHT, [0, 11, 30]), IDS, **ALONE)
    assert torch.equal(again.logprobs, isologit.linear_logprobs(HIDDEN, WEIGHT, IDS).logprobs)


TWO = [WEIGHT[:11], WEIGHT[11:]]
A, B = torch.ones(2, WEIGHT.shape[1]), torch.ones(VOCAB, 2)


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        ([], {}, "weight is a list of no blocks"),
        ([WEIGHT[:11], WEIGHT[11:].numpy], {}, r"weight\[1\] is a builtin_function_or_method; expected a plain tensor"),
        ([WEIGHT[:11], WEIGHT[11:, :5]], {}, r"weight\[1\] is \[19, 5\] and weight\[0\] \[11, 12\]"),
        (TWO, {"bias": torch.zeros(VOCAB)}, "bias is a Tensor and weight 2 blocks"),
        (TWO, {"bias": [None, torch.zeros(19)]}, r"bias\[1\] is a Tensor and bias\[0\] a NoneType"),
        (TWO, {"dweight_accumulate": WEIGHT.float()}, "dweight_accumulate is a Tensor and weight 2 blocks"),
        (TWO, {"lora": (A, B)}, "lora is a tuple; expected .a, b, scale."),
        (TWO, {"lora": (A, B, 1.0)}, "lora b is a Tensor and weight 2 blocks"),
        (TWO, {"lora": (A, [B[:11], None], 1.0)}, r"lora b\[1\] is a NoneType and lora b\[0\] a Tensor"),
        (TWO, {"lora": (A, [B[:11], B[:11]], 1.0)}, r"b is \[11, 2\]; expected \[r, 12\] and \[19, r\]"),
        (TWO, {"lora": (A, None, 1.0)}, "lora b is None; expected"),
        (TWO, {"lora": ([1.0], [B[:11], B[11:]], 1.0)}, r"lora a is a list; expected a plain tensor \[r, H\]"),
        (TWO, {"lora": (A, [B[:11], B[11:]], float("inf"))}, "lora scale: inf; expected a finite number"),
        ([WEIGHT[:11], WEIGHT[11:29]], {"vocab_size": 30}, r"the ranks have ids \[0, 29\); expected all"),
        ([WEIGHT[:11], WEIGHT[11:].int()], {}, "weight: dtype is torch.int32"),
    ],
)
def test_what_is_refused(weight, options, message):
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        parallel.score(HIDDEN, weight, IDS, **options, **ALONE)


def test_without_a_process_group_it_must_be_said():
    with pytest.raises(ValueError, match="group=isologit.parallel.ALONE"):
        parallel.score(HIDDEN, parts(WEIGHT, [0, 11, 30]), IDS)
