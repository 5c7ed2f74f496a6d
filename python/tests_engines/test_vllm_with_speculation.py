"""Speculative decoding: logprobs of accepted and of bonus tokens.

In a process of its own, since drafts by prompt lookup load numba, and vLLM 0.32 starts no further engine where that is
loaded: it looks for kernels in everything that modules hold, and takes for a dictionary what llvmlite's library object
gives for its `__dict__`.
"""

import json
import os
import subprocess
import sys

PROMPT = "the king of the land and the king of the land and the king of the"


def main(model: str, folder: str) -> None:
    """Prints how many steps and tokens there were, and the returned logprobs that are of no row of logits."""
    from pathlib import Path

    import expected
    from recording import Recording
    from vllm import LLM, SamplingParams

    lookup = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    engine = LLM(
        model, enforce_eager=True, max_model_len=256, dtype="bfloat16", worker_extension_cls="recorder.Recorder",
        speculative_config=lookup, logprobs_mode="processed_logprobs", additional_config={"isologit": {}},
    )  # fmt: skip
    recording = Recording(engine, Path(folder))
    with recording:
        params = SamplingParams(max_tokens=24, temperature=0, logprobs=3)
        (output,) = engine.generate([PROMPT], params, use_tqdm=False)
    (completion,) = output.outputs
    rows = [row.numpy() for step in recording.steps for row in step["logits"]]
    found = []
    for returned in completion.logprobs:
        ids = list(returned)
        values = expected.bits([returned[token].logprob for token in ids])
        if values not in [expected.bits(expected.log_softmax(row, ids)) for row in rows]:
            found.append({token: returned[token].logprob for token in ids})
    print(json.dumps({"steps": len(recording.steps), "tokens": len(completion.token_ids), "wrong": found}))


def test_logprobs(model, tmp_path):
    """Greedy: drawing at a temperature, vLLM 0.32 on the CPU divides drafted rows by memory that it never filled."""
    command = [sys.executable, __file__, model, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["steps"] < told["tokens"] == 24  # some steps gave more than one token
    assert told["wrong"] == []


if __name__ == "__main__":
    main(*sys.argv[1:])
