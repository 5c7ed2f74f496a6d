"""usage: make_gguf.py FOLDER OUT.gguf [--head F32|F16|BF16|Q8_0]

The example Qwen3 as a GGUF file, with PyPI's gguf. (For other models llama.cpp has convert_hf_to_gguf.py.)
"""

import argparse
import json
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tiny-qwen3"))
import safetensors_file  # noqa: E402


def add_config(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict) -> None:
    vocab = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocab, key=vocab.get))
    writer.add_token_types(
        [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(vocab))]
    )
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def add_tensor(writer: gguf.GGUFWriter, name: str, tensor: safetensors_file.Tensor, kind: Kind) -> None:
    values = safetensors_file.f32(tensor)
    if kind == Kind.BF16:
        writer.add_tensor(name, safetensors_file.bf16(values).values.view(np.uint8), raw_dtype=kind)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def make(folder: Path, out: Path, head: str = "BF16", own_head: bool = False) -> None:
    """own_head: an output.weight apart from token_embd.weight, of the same numbers."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "qwen3")
    add_config(writer, config)
    add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    for name, tensor in safetensors_file.read(folder / "model.safetensors").items():
        to = names.get_name(name, try_suffixes=(".weight",))
        if to == "token_embd.weight":
            add_tensor(writer, to, tensor, Kind.BF16 if own_head else Kind[head])
            if own_head:
                add_tensor(writer, "output.weight", tensor, Kind[head])
        else:
            add_tensor(writer, to, tensor, Kind.F32 if tensor.values.ndim == 1 else Kind.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description="The example model as a GGUF file.")
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--head", choices=("F32", "F16", "BF16", "Q8_0"), default="BF16")
    given = arguments.parse_args()
    make(given.folder, given.out, given.head)


if __name__ == "__main__":
    main()
