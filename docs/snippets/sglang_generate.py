"""Greedy tokens of the example model in SGLang, with the logprobs of isologit's head."""

import shutil
import tempfile

import sglang


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Not captured.safetensors: SGLang loads every such file that it finds.
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(f"examples/tiny-qwen3/{name}", folder)
        engine = sglang.Engine(
            model_path=folder,
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
