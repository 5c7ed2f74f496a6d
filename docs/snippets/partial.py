"""The example model's head in two shards, scored by two parties that exchange states: the bits of the whole."""

import numpy as np
from safetensors.torch import load_file

import isologit
from isologit.partial import PartialScore

weight = load_file("examples/tiny-qwen3/model.safetensors")["model.embed_tokens.weight"]
captured = load_file("examples/captured/tiny-qwen3.safetensors")
hidden, token_ids = captured["hidden_states"][:256], captured["token_ids"][:256].long()

shards = {0: weight[:1500], 1500: weight[1500:]}  # first id: rows
parties = [PartialScore(hidden, token_ids, vocab_size=4096, outputs=("logprobs", "rank")) for _ in shards]
finished = False
while not finished:
    states = []
    for party, (first_id, shard) in zip(parties, shards.items(), strict=True):
        party.absorb(shard, first_id)
        states.append(party.state())  # bytes, to be sent
    parties[0].merge(states[1])
    parties[1].merge(states[0])
    finished = all([party.finish_round() for party in parties])

whole = isologit.score(hidden, weight, token_ids, outputs=("logprobs", "rank"))
for party in parties:
    scores = party.scores()
    print(np.array_equal(scores.logprobs, whole.logprobs), np.array_equal(scores.rank, whole.rank))
