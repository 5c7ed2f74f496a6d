"""A vLLM engine of the contract's draws, in a process of its own: python drafts.py MODEL DRAFTS FILE [v2].

DRAFTS: how many tokens its prompt-lookup drafts, 0 for no speculative decoding. All of the model is the contract's, so
that logits do not depend on how many tokens a step has. What it did is left in the file, for test_vllm_drafts.py.
"""

import sys

import torch

torch.cpu._init_amx()

PROMPTS = [
    "the king of the land and the king of the land and the king of the",
    "And God said, And God said, And God",
    "Amen",
]
CASES = {
    "temperature": {"temperature": 0.7, "n": 2},
    "cuts": {"temperature": 0.9, "top_k": 40, "top_p": 0.8},
    "penalties": {
        "temperature": 0.5,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.1,
    },
    "greedy": {"temperature": 0},
}
MUTANT = "every draft accepted"


def main(model: str, drafts: str, file: str, runner: str = "v1") -> None:
    if runner == "v2":
        import v2_runner  # noqa: F401  # makes vLLM take that runner
    from vllm import LLM, SamplingParams

    from isologit.integrations.vllm import _draws

    lookup = {"method": "ngram", "num_speculative_tokens": int(drafts), "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    engine = LLM(
        model, enforce_eager=True, max_model_len=256, dtype="bfloat16", logprobs_mode="processed_logprobs",
        speculative_config=lookup if int(drafts) else None, max_num_batched_tokens=32, enable_chunked_prefill=True,
        additional_config={"isologit": {"draws": "contract", "scope": "model"}},
    )  # fmt: skip
    worker = engine.llm_engine.model_executor.driver_worker.worker
    worker.get_model().model.norm.weight.data.mul_(3)  # peaked, so that drafts are drawn now and then
    steps = {"v1": record, "v2": draft_in_python}[runner](worker.model_runner)
    runs = {}

    def run(name: str, case: dict) -> None:
        steps.clear()
        params = SamplingParams(max_tokens=24, logprobs=2, seed=7, ignore_eos=True, **case)
        outputs = engine.generate(PROMPTS, params, use_tqdm=False)
        runs[name] = {"steps": list(steps), "outputs": [one for output in outputs for one in plain(output)]}

    for name, case in CASES.items():
        run(name, case)
    _draws.up_to_the_first_other = lambda drawn, draft, bonus: torch.cat([draft.to(drawn), bonus.to(drawn)])
    run(MUTANT, CASES["temperature"])
    torch.save({"state": engine.collective_rpc("isologit_state")[0], "runs": runs}, file)


def record(runner) -> list[dict]:
    """Of each request in each step: its rows of logits, given to the sampler, what was drafted and what was taken."""
    steps, sample = [], runner._sample

    def recorded(logits, drafts):
        given, names = logits.clone(), list(runner.input_batch.req_ids)
        unused = runner.discard_request_mask.np.tolist()
        result = sample(logits, drafts)
        counts = drafts.num_draft_tokens if drafts else [0] * len(names)
        drafted = drafts.draft_token_ids if drafts else torch.empty(0, dtype=torch.int32)
        parts = zip(
            names,
            given.split([count + 1 for count in counts]),
            drafted.split(counts),
            result.sampled_token_ids,
            unused,
            strict=False,
        )
        for name, rows, draft, taken, skip in parts:
            if not skip:
                taken = [token for token in taken.tolist() if token >= 0]
                steps.append({"request": name, "rows": rows, "draft": draft.tolist(), "taken": taken})
        return result

    runner._sample = recorded
    return steps


def draft_in_python(runner) -> list[dict]:
    """Since Triton's interpreter fails at the kernel of vLLM's drafts: what came after the last token before. Returned
    is, of each step, how many tokens each request took."""
    steps, sample, speculator, states = [], runner.sample, runner.speculator, runner.req_states

    def propose(batch, *args, **kwargs):
        for row, slot in enumerate(batch.idx_mapping.tolist()):
            tokens = states.all_token_ids.gpu[slot, : states.total_len.gpu[slot]].tolist()
            places = [place for place in range(len(tokens) - 1) if tokens[place] == tokens[-1]]
            after = tokens[places[-1] + 1 :] if places else tokens[-1:]
            count = speculator.drafts.shape[1]
            speculator.drafts[row] = torch.tensor((after * count)[:count])
        return speculator.drafts[: batch.num_reqs]

    def counted(*args):
        result = sample(*args)
        steps.append({"taken": result[1].tolist()})
        return result

    speculator.propose, runner.sample = propose, counted
    return steps


def plain(output) -> list[dict]:
    return [
        {
            "request": output.request_id if len(output.outputs) == 1 else f"{one.index}_{output.request_id}",
            "index": one.index,
            "prompt": len(output.prompt_token_ids),
            "tokens": list(one.token_ids),
            "logprobs": [{token: returned.logprob for token, returned in row.items()} for row in one.logprobs],
        }
        for one in output.outputs
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
