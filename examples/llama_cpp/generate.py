"""usage: generate.py MODEL.gguf PROMPT [--tokens N] [--temperature T] [--top-p P] [--seed S]

Text from a model that llama.cpp runs up to its last hidden state: the head, the logprobs and the draws are isologit's.
Prints the mean logprob of the prompt's tokens, each new token with its logprob, and what made these numbers.
"""

import argparse

import numpy as np
from cyllama.llama.llama_cpp import (
    LlamaBatch,
    LlamaContext,
    LlamaContextParams,
    LlamaModel,
    LlamaModelParams,
    disable_logging,
)
from gguf_head import read_head

import isologit


# [snippet: hidden states
class Body:
    """llama.cpp, up to the hidden states after the last norm."""

    def __init__(self, path: str, size: int = 512) -> None:
        disable_logging()
        self.model = LlamaModel(path, LlamaModelParams())
        params = LlamaContextParams()
        params.n_ctx, params.n_batch = size, size
        params.pooling_type = 0  # none: a hidden state for each token, not one for all
        self.context = LlamaContext(self.model, params)
        self.context.set_embeddings_mode(True)  # llama_set_embeddings
        self.vocab = self.model.get_vocab()
        self.position = 0

    def hidden_states(self, tokens: list[int]) -> np.ndarray:
        """[len(tokens), H] f32 of tokens that follow those given before."""
        batch = LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1)
        for i, token in enumerate(tokens):
            batch.add(token, self.position + i, [0], True)
        self.context.decode(batch)
        self.position += len(tokens)
        rows = [self.context.get_embeddings_ith(i) for i in range(len(tokens))]  # llama_get_embeddings_ith
        return np.array(rows, np.float32)
        # snippet]


def main() -> None:
    arguments = argparse.ArgumentParser(description="Text by llama.cpp and isologit's head.")
    arguments.add_argument("model", help="a GGUF file")
    arguments.add_argument("prompt")
    arguments.add_argument("--tokens", type=int, default=8)
    arguments.add_argument("--temperature", type=float, default=1.0)
    arguments.add_argument("--top-p", type=float, default=1.0)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()

    of_file = read_head(given.model)
    head = of_file.arguments()
    body = Body(given.model)
    prompt = body.vocab.tokenize(given.prompt, add_special=True, parse_special=False)
    hidden = body.hidden_states(prompt)
    report = None  # of what made the last numbers
    if len(prompt) > 1:
        scores = isologit.linear_logprobs(hidden[:-1], token_ids=np.array(prompt[1:]), **head)
        print(f"prompt: {len(prompt)} tokens, mean logprob {scores.logprobs.astype(np.float64).mean():.9g}")
        report = scores.report
    draws = {"seed": given.seed, "temperature": given.temperature, "top_p": given.top_p}
    for _ in range(given.tokens):
        drawn = isologit.sample(hidden[-1:], sequence_id=0, position=body.position, **draws, **head)
        token = int(drawn.ids[0])
        print(f"{token:6} {drawn.logprobs[0]:.9g} {body.vocab.token_to_piece(token, lstrip=0, special=True)!r}")
        report = drawn.report
        hidden = body.hidden_states([token])
    if report is not None:
        made = f"{report.arithmetic} arithmetic, kernel {report.kernel}"
        print(f"isologit {isologit.__version__}: {made}, of {of_file.name}")


if __name__ == "__main__":
    main()
