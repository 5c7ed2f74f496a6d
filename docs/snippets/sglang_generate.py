"""Greedy tokens of the example model in SGLang, with the logprobs of isologit's head."""

import sglang


def main() -> None:
    engine = sglang.Engine(
        model_path="examples/tiny-qwen3",
        device="cpu",
        attention_backend="torch_native",
        sampling_backend="pytorch",
        grammar_backend="none",
        max_total_tokens=1024,
        log_level="info",
    )
    params = {"temperature": 0, "max_new_tokens": 3}
    output = engine.generate("In the beginning", params, return_logprob=True)
    print(output["text"])
    for logprob, token, _ in output["meta_info"]["output_token_logprobs"]:
        print(token, f"{logprob:.9g}")
    engine.shutdown()


if __name__ == "__main__":  # the scheduler's process imports this file, too
    main()
