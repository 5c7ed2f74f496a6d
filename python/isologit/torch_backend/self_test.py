"""What the proofs take for granted, looked at on each device before it is first used: arithmetic, conversions, the
vendor's f64 products and functions. A device that computes otherwise is refused."""

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import isologit._torch  # noqa: F401 - so that no function is first called by several threads
from isologit.torch_backend import products
from isologit.torch_backend.rounding import least_of, rounded, two_sum
from isologit.torch_backend.transforms import FUNCTION_ERROR

_LEAST = 2.0**-149  # of f32
_GRAIN = 2**15  # elements that torch gives to a thread of the CPU at least
_FARTHER = "are farther from the real ones than additions can be"
_COPIES = 67  # of a case, side by side: loops of vectors and what they leave may be different code


def require(device: torch.device) -> None:
    """An error unless the device may be used."""
    wrong = why_not(device)
    if wrong:
        raise NotImplementedError(
            f"kernel 'torch' does not run on {device}: {wrong}. Its results could not be proven there; pass tensors on "
            "the CPU, without kernel='torch'"
        )


def why_not(device: torch.device) -> str:
    return _tested(device) or _flushing(device)


@functools.cache
def _tested(device: torch.device) -> str:
    """What is wrong with it, or ""."""
    try:
        tests = (_conversions, _quotients, _functions, _sums, _products)
        return next((wrong for test in tests for wrong in test(device)), "")
    except (TypeError, NotImplementedError) as error:  # no f64 at all, or an operation that it lacks
        return str(error).splitlines()[0]


def _flushing(device: torch.device) -> str:
    """The processor's mode is not a device's own: any thread of torch may have been made in another one."""
    if device.type != "cpu":
        return ""
    small = torch.full((_GRAIN * torch.get_num_threads(),), _LEAST, dtype=torch.float64)
    kept = small.float().double() == small
    return "" if bool(kept.all()) else "a thread of torch flushes subnormal numbers (torch.set_flush_denormal)"


def _conversions(device: torch.device) -> Iterator[str]:
    tie = 1 + 2.0**-24
    cases = [
        (_LEAST, torch.float32, _LEAST), (1.5 * _LEAST, torch.float32, 2 * _LEAST), (0.5 * _LEAST, torch.float32, 0.0),
        (0.5 * _LEAST * (1 + 2.0**-52), torch.float32, _LEAST), (tie, torch.float32, 1.0),
        (tie + 2.0**-52, torch.float32, 1 + 2.0**-23), (2.0**128, torch.float32, math.inf),
        (1 + 2.0**-8, torch.bfloat16, 1.0), (1 + 2.0**-8 + 2.0**-40, torch.bfloat16, 1 + 2.0**-7),
        (2.0**-134 * (1 + 2.0**-50), torch.bfloat16, 2.0**-133), (2.0**-25, torch.float16, 0.0),
        (2.0**-25 * (1 + 2.0**-50), torch.float16, 2.0**-24), (65520.0, torch.float16, math.inf),
        (65520.0 * (1 - 2.0**-52), torch.float16, 65504.0),
    ]  # fmt: skip
    for value, dtype, expected in cases:
        for sign in (1, -1):
            given = torch.full((_COPIES,), sign * value, dtype=torch.float64, device=device)
            for got in sorted(set(rounded(given, dtype).double().tolist())):
                if got != sign * expected:
                    yield f"{sign * value!r} in {dtype} is {got!r} there, expected {sign * expected!r}"
    for dtype, least in ((torch.float32, _LEAST), (torch.bfloat16, 2.0**-133), (torch.float16, 2.0**-24)):
        numbers = torch.tensor([[0.0, 1.0] * _COPIES + [least]], dtype=dtype, device=device)
        if float(least_of(numbers).cpu()) != least:
            yield f"{least!r} in {dtype} counts as 0 there"
    numbers = torch.tensor([1.0, 2.0**-60], dtype=torch.float64, device=device)
    total, lost = two_sum(numbers[:1], numbers[1:])
    if (float(total.cpu()), float(lost.cpu())) != (1.0, 2.0**-60):
        yield "additions in f64 are not those of IEEE 754"


def _quotients(device: torch.device) -> Iterator[str]:
    """Of tensors: rounding.quotient finds what the nearest number leaves of z."""
    generator = torch.Generator().manual_seed(1)
    z, d = torch.randn(2, 4001, generator=generator).double()
    d = d.abs() * torch.exp2(torch.randint(-20, 20, d.shape, generator=generator))
    expected = torch.tensor([a / b for a, b in zip(z.tolist(), d.tolist(), strict=True)], dtype=torch.float64)
    if not torch.equal((z.to(device) / d.to(device)).cpu(), expected):
        yield "divisions in f64 are not those of IEEE 754"
    expected = torch.tensor([1 / b for b in d.tolist()], dtype=torch.float64)
    if not torch.equal((1 / d.to(device)).cpu(), expected):
        yield "reciprocals in f64 are not those of IEEE 754"


def _functions(device: torch.device) -> Iterator[str]:
    steps = torch.linspace(0, 1, 4001, dtype=torch.float64)
    for name, of_device, reference, points in (
        ("exp", torch.exp, math.exp, -torch.cat([steps, steps * 40, steps * 700])),
        ("log1p", torch.log1p, math.log1p, torch.cat([steps * 4, torch.exp2(steps * 940 - 900)])),
        ("tanh", torch.tanh, math.tanh, torch.cat([-steps, steps * 30, torch.exp2(-steps * 300)])),
        ("sqrt", torch.sqrt, math.sqrt, torch.cat([steps, torch.exp2(steps * 600 - 300)])),
    ):
        yield from _share(name, of_device, reference, points, device)
    turn = torch.cat([steps - 0.5, (steps - 0.5) * 7])
    for name, of_device, reference in (("cos", torch.cos, math.cos), ("sin", torch.sin, math.sin)):
        expected = torch.tensor([reference(x) for x in turn.tolist()], dtype=torch.float64)
        if bool(((of_device(turn.to(device)).cpu() - expected).abs() > FUNCTION_ERROR - 2.0**-52).any()):
            yield f"{name} is off by more than 2^-50 there"
    if float(torch.exp(torch.tensor(-math.inf, dtype=torch.float64, device=device)).cpu()) != 0:
        yield "exp(-inf) is not 0"


def _share(name: str, of_device: Callable, reference: Callable, points: Tensor, device: torch.device) -> Iterator[str]:
    got = of_device(points.to(device)).cpu()
    expected = torch.tensor([reference(x) for x in points.tolist()], dtype=torch.float64)
    # The reference is within 2^-52 of the function, and is in f64 itself.
    error = (got - expected).abs() > expected.abs() * (FUNCTION_ERROR - 2.0**-51)
    if bool(error.any()):
        yield f"{name}({float(points[error][0])!r}) is {float(got[error][0])!r} there"


def _sums(device: torch.device) -> Iterator[str]:
    """Of rows, over 80 binades; and their lengths, whose squares must neither overflow nor be lost."""
    generator = torch.Generator().manual_seed(1)
    for rows, size in ((1, 7), (3, 300), (5, 4099)):
        x = torch.randn(rows, size, generator=generator).double()
        x = x * torch.exp2(torch.randint(-40, 40, x.shape, generator=generator))
        expected = torch.tensor([math.fsum(row) for row in x.tolist()], dtype=torch.float64)
        if bool(((x.to(device).sum(-1).cpu() - expected).abs() > x.abs().sum(-1) * (size * 2.0**-53)).any()):
            yield f"sums of {size} numbers in f64 {_FARTHER}"
        for scale in (1.0, 2.0**-149, 2.0**127):
            right = scale * math.sqrt(size)
            got = torch.linalg.vector_norm((x.sign() * scale).to(device), dim=-1).cpu()
            if bool(((got - right).abs() > right * 2.0**-40).any()):
                yield f"the length of {size} numbers of {scale!r} is {float(got[0])!r} there"


def _products(device: torch.device) -> Iterator[str]:
    """Terms over 80 binades that cancel, for shapes that vendors have kernels of their own for, alone and in batches;
    and special ones."""
    generator = torch.Generator().manual_seed(1)
    for rows, ids, size in ((1, 1, 300), (1, 40, 96), (5, 9, 257), (40, 7, 128)):
        hidden, weight = (torch.randn(n, size, generator=generator) for n in (rows, ids))
        hidden, weight = (
            x * torch.exp2(torch.randint(-20, 20, x.shape, generator=generator)) for x in (hidden, weight)
        )
        hidden[:, 1::2], weight[:, 1::2] = hidden[:, : size - 1 : 2][:, : size // 2], -weight[:, ::2][:, : size // 2]
        hidden[:, -1] = 2.0**-20
        terms = hidden.double()[:, None] * weight.double()
        expected = torch.tensor([[math.fsum(one) for one in row] for row in terms.tolist()], dtype=torch.float64)
        for got in _multiplied(hidden, weight, device):
            if bool(((got - expected).abs() > terms.abs().sum(-1) * (size * 2.0**-53)).any()):
                yield f"products of {rows} rows and {ids} ids in f64 {_FARTHER}"
        hidden[:, size // 2] = torch.inf
        for factor, told in ((0.0, math.isnan), (1.0, lambda x: x == math.inf), (-1.0, lambda x: x == -math.inf)):
            weight[:, size // 2] = factor
            for got in _multiplied(hidden, weight, device):
                if not all(map(told, got.reshape(-1).tolist())):
                    yield f"a sum with inf * {factor} is {float(got.reshape(-1)[0])!r} there"
    yield from _large_products(device)


def _multiplied(hidden: Tensor, weight: Tensor, device: torch.device) -> Iterator[Tensor]:
    """[n, v], and in batches [3, n, v], on the CPU."""
    hidden, weight = hidden.double().to(device), weight.double().to(device)
    yield products.multiply(hidden, weight).cpu()
    yield (hidden.expand(3, -1, -1) @ weight.t().expand(3, -1, -1)).cpu()


def _large_products(device: torch.device) -> Iterator[str]:
    """As many as a block of logits has: what is chosen for these may be another algorithm than for few."""
    rows, ids, size = 256, 512, 1024
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(n, size, generator=generator) for n in (rows, ids))
    hidden, weight = (x * torch.exp2(torch.randint(-20, 20, x.shape, generator=generator)) for x in (hidden, weight))
    got = products.multiply(hidden.double().to(device), weight.double().to(device)).cpu()
    n, v = torch.arange(0, rows, 3), torch.arange(0, rows, 3) * 2 % ids
    terms = hidden[n].double() * weight[v].double()
    expected = torch.tensor([math.fsum(one) for one in terms.tolist()], dtype=torch.float64)
    if bool(((got[n, v] - expected).abs() > terms.abs().sum(-1) * (size * 2.0**-53)).any()):
        yield f"products of {rows} rows and {ids} ids in f64 {_FARTHER}"
