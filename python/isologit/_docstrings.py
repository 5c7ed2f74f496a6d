"""What the docstrings of several functions have in common, written once."""

import inspect
from collections.abc import Callable
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable)

_SECTIONS = {
    "inputs": "<hidden>\n<weight>",
    "head": "<bias>\n<transforms>\n<vocab_size>\n<lora>",
    "hidden": """\
hidden : numpy.ndarray or torch.Tensor, [..., H]
    Hidden states, the head's inputs: float32, float16, torch.bfloat16, ml_dtypes.bfloat16, or uint16 that holds bf16
    (see `dtype`). Read where it lies if the elements of a row are adjacent and the leading dimensions fold into one
    stride, else copied. Tensors must be on the CPU.""",
    "weight": """\
weight : as hidden, [V, H]
    The head's weight, of any of these types. Read in place, never copied, at each call anew: the elements of a row must
    be adjacent. Also float64, whose gradient is the f32 number, and an F8Weight, which is frozen.""",
    "bias": """\
bias : as hidden, [V], optional
    Added to the exact sum before it is rounded.""",
    "transforms": """\
temperature : float, or array or tensor [...], default 1.0
    Divides the last logits; one for all rows or one a row, above 0 and finite, rounded to f32. 1 is no step.
softcap : float, optional
    z becomes softcap * tanh(z / softcap); above 0 and finite.
scale, divide : float, optional
    z is multiplied by scale, or divided by divide (not both). scale: finite and not 0; divide: above 0 and finite. 1 is
    no step.
transform_order : {"softcap_first", "scale_first"}, default "softcap_first"
    Which comes first where there is a softcap and a scale or divide.""",
    "vocab_size": """\
vocab_size : int, default V
    The real vocabulary, when the last rows of the weight are padding: those are never looked at.""",
    "lora": """\
lora : (a, b, scale), optional
    A low-rank addition: a [r, H] and b [V, r], each as hidden, and a float, finite. The weight stands for
    weight + scale b a over the reals; no product of them is rounded.""",
    "support": """\
mask : bool, [V] or [..., V], optional
    True where an id stays in the support S of the distribution. The default is the whole vocabulary.
kept, banned : sequence of sequences of int, optional
    In the place of a mask: for each row the ids that stay, and those that do not. An id stays that is in `kept` (where
    that is given) and not in `banned`. Not under torch.compile.""",
    "outputs": """\
outputs : sequence of str, default ("logprobs",)
    Which to compute. All logarithms are natural, so logprobs, lse and entropy are in nats; f32 or int64, [...]:

    - "logprobs" (of token_ids; [..., K] for K ids): z_t - ln of the sum over S of e^z; -inf for an id outside S
    - "lse": ln of the sum over S of e^z
    - "entropy": minus the sum over S of p ln p
    - "argmax": the id of the greatest logit in S, the lowest of equals; -1 when S has none above -inf
    - "rank" (of token_ids): the place of the id in descending order of logits, from 1; 0 outside S
    - "raw_logprobs" (of token_ids): logprobs over the whole vocabulary and without temperature
    - "sum_p2": the sum over S of p squared
    - "log_kept": ln of the share of the whole vocabulary's mass that S keeps
    - "mean_logits": the mean of z over S
top_k : int, default 0
    Up to 1024: also the k ids with the greatest logits, equal ones by ascending id, and their logprobs. Past the
    end of S the id is -1 and the logprob -inf.""",
    "run": """\
arithmetic : {"exact", "fast"}, default "exact"
    Of the logits. "exact": the real sum of products and bias, rounded once. "fast": summed in f32, in an order that the
    kernel alone fixes. What is made of the logits is exact for them in both.""",
    "gradients": """\
gradients : {"fast", "exact"}, default "fast"
    Tensors only: the arithmetic of backward. "exact": the real sums, each rounded once. "fast": within 2^-16 of the sum
    of |dz| times the norms of what it multiplies.
dweight_accumulate : torch.Tensor, [V, H], optional
    Tensors only: a buffer (f32, bf16 or f16) that backward adds the gradient of the weight to, with one rounding, in
    the place of weight.grad.""",
    "threads": """\
threads : int, default 0
    How many threads; 0: as many as there are processors to run on, at most the control group's quota. No result depends
    on it.
processors : iterable of int, optional
    The numbers of the processors to run on. The default is those that the calling thread may run on, and engines bind
    that to one.
kernel : str, default ""
    A name that `isologit.kernels` lists, of that arithmetic. "": that of the environment variable ISOLOGIT_KERNEL if it
    is set, else the best one here. Backward takes the kernel that forward had.""",
    "dtype": """\
dtype : {"bf16"}, optional
    What uint16 arrays of numpy hold.""",
    "raises": """\
Raises
------
ValueError
    A shape, type, id or number is not as told here; the message names it, the value found and what was expected.
TypeError
    Arrays of numpy and tensors of torch are mixed.
NotImplementedError
    A tensor is on another device than the CPU; a kernel is unknown or not for this machine or arithmetic.
MemoryError
    No memory for the sums of the rows.""",
    "gradient": """\
Differentiable in hidden, weight, bias and the factors of lora, through logprobs, entropy, lse, mean_logits and
top_k_logprobs: with upstream gradients a of logprobs at ids t, b of lse, c of entropy and d of mean_logits,
dz_v = a ([v = t] - p_v) + b p_v - c p_v (ln p_v + H) + d / |S| over S and 0 outside, times the slopes of the
transforms: the real number, rounded once to f32. Other results are constants.""",
}


def documented(function: _Function) -> _Function:
    """A function or class, with the sections of its docstring in the places of lines that say <name>."""
    if function.__doc__:  # there is none under python -OO
        text = inspect.cleandoc(function.__doc__)
        for name, section in _SECTIONS.items():
            text = text.replace(f"<{name}>", section)
        function.__doc__ = text
    return function
