"""SGLang's functions that make logprobs to be returned, called here as its scheduler calls them."""

import contextlib
import inspect
import types

import expected
import numpy as np
import pytest
import torch
from test_head import ROWS, VOCAB, bf16, head, layer, metadata

IDS = list(range(VOCAB))


@pytest.fixture(autouse=True)
def _plugins(plugins):
    pass


def peaked(rows=ROWS):
    """Logits whose log_softmax in f32 is off."""
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(4)) * 12


def right(logits, ids=IDS):
    return [expected.log_softmax(row, ids).tolist() for row in np.asarray(logits)]


def as_lists(values):
    return [value.tolist() if isinstance(value, torch.Tensor) else list(value) for value in values]


def test_stock_would_differ():
    stock = torch.log_softmax(peaked(), -1)[:, IDS]
    assert expected.bits(stock) != expected.bits(right(peaked()))


@pytest.mark.parametrize(
    ("given", "positions"),
    [
        ({"multi_item_delimiter_indices": [torch.tensor([1, 3])]}, [0, 2]),
        ({"token_indices_to_pool": [torch.tensor([1, 3])]}, [1, 3]),
    ],
    ids=["multi-item scoring", "at positions"],
)
def test_scoring(given, positions):
    from sglang.srt.layers.logits_processor import LogitsProcessor

    hidden, lm_head = bf16(ROWS, 32, scale=0.3), head()
    asked = metadata(
        is_prefill_only=True,
        extend_seq_lens_cpu=[ROWS],
        extend_token_ids_logprob=True,
        token_ids_logprobs=[IDS],
        extend_return_top_logprob=True,
        top_logprobs_nums=[2],
    )
    name = {"multi_item_delimiter_indices": "for_multi_item_scoring", "token_indices_to_pool": "at_positions"}
    (argument,) = given
    made = layer()
    out = getattr(made, f"compute_logprobs_{name[argument]}")(
        torch.zeros(ROWS, dtype=torch.int64), hidden, lm_head, asked, given[argument]
    )
    logits = made._get_logits(hidden[positions], lm_head, asked)
    assert as_lists(out.input_token_ids_logprobs_val[0]) == right(logits)
    for row, ids, values in zip(logits, out.input_top_logprobs_idx[0], out.input_top_logprobs_val[0], strict=True):
        assert values == expected.log_softmax(row.numpy(), ids).tolist()
    stock = inspect.unwrap(getattr(LogitsProcessor, f"compute_logprobs_{name[argument]}"))
    out = stock(made, torch.zeros(ROWS, dtype=torch.int64), hidden, lm_head, asked, given[argument])
    assert as_lists(out.input_token_ids_logprobs_val[0]) != right(logits)


def test_scores_without_sampling():
    from sglang.srt.layers.logprob_processor import OutputLogprobProcessor

    result = OutputLogprobProcessor().compute_logprobs_only(peaked(), [0] * ROWS, [IDS] * ROWS, lambda logits: logits)
    assert as_lists(result.token_ids_logprobs_val) == right(peaked())


@pytest.mark.parametrize("greedy", [True, False])
def test_speculation(greedy):
    from sglang.srt.layers.logprob_processor import compute_spec_logprobs

    temperatures = torch.tensor([[0.7], [1.3]])
    batch = types.SimpleNamespace(
        seq_lens=[9, 9],
        sampling_info=types.SimpleNamespace(is_all_greedy=greedy, temperatures=temperatures),
        top_logprobs_nums=None,
        token_ids_logprobs=[IDS, IDS],
    )
    output = types.SimpleNamespace(next_token_logits=peaked(4))
    compute_spec_logprobs(batch, output, torch.tensor([3, 5, 7, 39]), chain_stride=2)
    final = peaked(4) if greedy else peaked(4) / temperatures.repeat_interleave(2, 0)
    assert as_lists(output.next_token_token_ids_logprobs_val) == right(final)
    sampled = [right(row[None], [token])[0][0] for row, token in zip(final, (3, 5, 7, 39), strict=True)]
    assert output.next_token_logprobs.flatten().tolist() == sampled


class Processor:
    """A custom processor that may be called once a step."""

    calls = 0

    def __call__(self, logits, params):
        self.calls += 1
        return logits - torch.arange(VOCAB)


@contextlib.contextmanager
def sampler():
    from sglang.srt.layers.sampler import Sampler
    from sglang.srt.runtime_context import get_parallel

    with get_parallel().override(tp_group=types.SimpleNamespace(device_group=None)):
        yield Sampler()


def sampling_info(processor, greedy):
    from sglang.srt.sampling.sampling_batch_info import ProcessorEntry, SamplingBatchInfo

    every = list(range(ROWS))
    return SamplingBatchInfo(
        temperatures=torch.linspace(0.5, 1.5, ROWS)[:, None],
        top_ps=torch.ones(ROWS),
        top_ks=torch.full((ROWS,), VOCAB),
        min_ps=torch.zeros(ROWS),
        is_all_greedy=greedy,
        is_any_greedy=greedy,
        need_top_p_sampling=False,
        need_top_k_sampling=False,
        need_min_p_sampling=False,
        vocab_size=VOCAB,
        has_custom_logit_processor=True,
        custom_params=[None] * ROWS,
        custom_logit_processor={0: ProcessorEntry(processor, rows=every, indices=torch.tensor(every))},
    )


@pytest.mark.parametrize("greedy", [True, False])
def test_custom_processors_are_called_once(greedy):
    from sglang.srt.layers.logits_processor import LogitsProcessorOutput

    processor, output = Processor(), LogitsProcessorOutput(next_token_logits=peaked())
    info = sampling_info(processor, greedy)
    with sampler() as made:
        ids = made(output, info, True, [0] * ROWS, [IDS] * ROWS, torch.arange(ROWS))
    assert processor.calls == 1 and info.has_custom_logit_processor
    final = peaked() - torch.arange(VOCAB)
    if greedy:
        assert ids.tolist() == final.argmax(-1).tolist()
    else:
        final = final / info.temperatures
    assert as_lists(output.next_token_token_ids_logprobs_val) == right(final)
    sampled = [right(row[None], [int(token)])[0][0] for row, token in zip(final, ids, strict=True)]
    assert output.next_token_logprobs.tolist() == sampled


def test_a_log_softmax_of_other_types_is_refused():
    from sglang.srt.layers.logprob_processor import OutputLogprobProcessor

    with pytest.raises(ValueError, match="log_softmax of torch.bfloat16 along -1; expected f32 logits"):
        OutputLogprobProcessor().compute_logprobs_only(
            peaked().bfloat16(), [0] * ROWS, [IDS] * ROWS, lambda logits: logits
        )
