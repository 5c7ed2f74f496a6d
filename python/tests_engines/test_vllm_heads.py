"""isologit.parallel reads vLLM's heads, padded and with ids that were added, as vLLM itself does."""

from types import SimpleNamespace

import pytest
import torch
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding, get_masked_input_and_mask

from isologit.parallel._shard import local

SIZES = {"plain": (128, 128), "padded": (1010, 1010), "added": (1026, 1010), "more than a rank's": (1110, 1010)}


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_rows_of_the_ids_that_vllm_looks_up(sizes, ranks):
    count, original = sizes
    found = {}
    for rank in range(ranks):
        group = SimpleNamespace(rank_in_group=rank, world_size=ranks)
        head = VocabParallelEmbedding(count, 4, torch.bfloat16, org_num_embeddings=original, parallel_group=group)
        rows = head.weight.shape[0]
        head.weight.data = torch.arange(rows, dtype=torch.float32)[:, None].expand(rows, 4) + 10000 * rank
        i = head.shard_indices
        places, elsewhere = get_masked_input_and_mask(
            torch.arange(count),
            i.org_vocab_start_index,
            i.org_vocab_end_index,
            i.num_org_vocab_padding,
            i.added_vocab_start_index,
            i.added_vocab_end_index,
        )
        by_vllm = {int(id): float(head.weight[places[id], 0]) for id in (~elsewhere).nonzero()[:, 0]}
        own = local(head, None, None, None, None, None)
        assert own.vocab_size == count
        read = {}
        for first, weight in zip(own.first_ids, own.weights, strict=True):
            read |= {first + row: float(value) for row, value in enumerate(weight[:, 0])}
        assert read == by_vllm
        found |= read
    assert sorted(found) == list(range(count))
