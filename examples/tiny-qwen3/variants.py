"""Checkpoints that differ from the example model only in how they store its head.

Each folder has a config.json and the head's tensors; the other layers are left out. variants.json
in the output folder says what a reader must find in each. Needs numpy only.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import safetensors_file as st
from safetensors_file import Tensor

SEED = 20261122
PADDING_ROWS = 128
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
BIAS = "lm_head.bias"
NORM = "model.norm.weight"
BASE = "tied-bf16"

CONFIG_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

Tensors = dict[str, Tensor]


@dataclass
class Variant:
    name: str
    about: str
    shards: list[Tensors]
    head: str  # the tensor that is the head
    config: dict[str, Any] = field(default_factory=dict)  # what differs from the model's own
    nested: str = ""  # the model_type of a text_config that the language model's settings are in
    same_logprobs: bool = False  # its log-probabilities are, bit for bit, those of BASE
    transform: dict[str, float] = field(default_factory=dict)  # softcap, multiply or divide

    @property
    def tied(self) -> bool:
        return self.head.endswith("embed_tokens.weight")

    def tensors(self) -> Tensors:
        return {name: tensor for shard in self.shards for name, tensor in shard.items()}

    def expected(self, vocab_size: int) -> dict[str, Any]:
        dtype, values = self.tensors()[self.head]
        return {
            "about": self.about,
            "head": self.head,
            "dtype": dtype,
            "rows": values.shape[0],
            "vocab_size": vocab_size,
            "hidden_size": values.shape[1],
            "tied": self.tied,
            "bias": BIAS if BIAS in self.tensors() else None,
            "softcap": self.transform.get("softcap"),
            "multiply": self.transform.get("multiply"),
            "divide": self.transform.get("divide"),
            "shards": len(self.shards),
            "same_logprobs_as": BASE if self.same_logprobs else None,
        }

    def full_config(self, model_config: dict[str, Any]) -> dict[str, Any]:
        config = model_config | {
            "tie_word_embeddings": self.tied,
            "dtype": CONFIG_DTYPES[self.tensors()[self.head].dtype],
        }
        if self.nested:
            tie = config.pop("tie_word_embeddings")
            # The vision tower has sizes of its own, which are not the head's.
            config = {
                "text_config": config | {"model_type": self.nested},
                "vision_config": {"model_type": "vision", "hidden_size": 96, "vocab_size": 7},
                "tie_word_embeddings": tie,
            }
        return config | self.config

    def write(self, folder: Path, model_config: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", self.full_config(model_config))
        if len(self.shards) == 1:
            st.write(folder / "model.safetensors", self.shards[0])
            return
        weight_map = {}
        for number, shard in enumerate(self.shards, start=1):
            file = f"model-{number:05}-of-{len(self.shards):05}.safetensors"
            st.write(folder / file, shard)
            weight_map |= dict.fromkeys(shard, file)
        index = {
            "metadata": {"total_size": sum(t.values.nbytes for t in self.tensors().values())},
            "weight_map": weight_map,
        }
        write_json(folder / "model.safetensors.index.json", index)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def padded(weight: Tensor, value: float) -> Tensor:
    """The weight with PADDING_ROWS more rows, of a value that shows wherever it leaks."""
    padding = st.bf16(np.full((PADDING_ROWS, weight.values.shape[1]), value))
    return Tensor("BF16", np.concatenate([weight.values, padding.values]))


def half(values: np.ndarray) -> Tensor:
    return Tensor("F16", values.astype(np.float16))


def single(values: np.ndarray) -> Tensor:
    return Tensor("F32", values.astype(np.float32))


def storage_variants(weight: Tensor, norm: Tensor) -> list[Variant]:
    """Which tensor is the head, in which dtype, in which file."""
    decoy = Tensor("BF16", weight.values[::-1])  # an embedding that must not be taken for the head
    values = st.f32(weight).astype(np.float64)
    # Moved by up to 2^-9 of itself, a value needs all the bits of f16 or f32.
    moved = values * (1 + np.random.default_rng(SEED).uniform(-1, 1, values.shape) * 2**-9)

    def one_file(name: str, about: str, head: str, tensors: Tensors, **more: Any) -> Variant:
        return Variant(name, about, [tensors | {NORM: norm}], head, **more)

    return [
        one_file(
            BASE, "the example's own head", EMBEDDING, {EMBEDDING: weight}, same_logprobs=True
        ),
        one_file(
            "tied-f16",
            "the embedding rounded to f16",
            EMBEDDING,
            {EMBEDDING: half(values)},
        ),
        one_file(
            "tied-f32",
            "the embedding widened to f32, every value the same",
            EMBEDDING,
            {EMBEDDING: single(values)},
            same_logprobs=True,
        ),
        one_file(
            "untied-bf16",
            "the head in lm_head.weight, beside another embedding",
            HEAD,
            {HEAD: weight, EMBEDDING: decoy},
            same_logprobs=True,
        ),
        one_file(
            "untied-f16",
            "f16 values that bf16 cannot hold",
            HEAD,
            {HEAD: half(moved), EMBEDDING: half(values[::-1])},
        ),
        one_file(
            "untied-f32",
            "f32 values that neither bf16 nor f16 can hold",
            HEAD,
            {HEAD: single(moved), EMBEDDING: single(values[::-1])},
        ),
        one_file(
            "tied-flag-with-lm-head",
            "config.json says tied, but lm_head.weight is there: the tensor decides",
            HEAD,
            {HEAD: weight, EMBEDDING: decoy},
            config={"tie_word_embeddings": True},
            same_logprobs=True,
        ),
        Variant(
            "sharded-tied",
            "two files and an index, the embedding in the first",
            [{EMBEDDING: weight}, {NORM: norm}],
            EMBEDDING,
            same_logprobs=True,
        ),
        Variant(
            "sharded-untied",
            "two files and an index, the head in the second",
            [{EMBEDDING: decoy}, {NORM: norm, HEAD: weight}],
            HEAD,
            same_logprobs=True,
        ),
        one_file(
            "padded-nan",
            f"{PADDING_ROWS} rows of NaN past the vocabulary",
            EMBEDDING,
            {EMBEDDING: padded(weight, np.nan)},
            same_logprobs=True,
        ),
        one_file(
            "padded-large",
            f"{PADDING_ROWS} rows of 2^100 past the vocabulary",
            HEAD,
            {HEAD: padded(weight, 2.0**100), EMBEDDING: decoy},
            same_logprobs=True,
        ),
        Variant(
            "nested-tied",
            "settings in text_config, the embedding under model.language_model",
            [
                {
                    "model.language_model.embed_tokens.weight": weight,
                    "model.language_model.norm.weight": norm,
                }
            ],
            "model.language_model.embed_tokens.weight",
            config={"model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"]},
            nested="qwen3_vl_text",
            same_logprobs=True,
        ),
        Variant(
            "nested-untied",
            "settings in text_config, the head in language_model.lm_head",
            [
                {
                    "language_model.lm_head.weight": weight,
                    "language_model.model.embed_tokens.weight": decoy,
                    "language_model.model.norm.weight": norm,
                }
            ],
            "language_model.lm_head.weight",
            config={"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]},
            nested="llama",
            same_logprobs=True,
        ),
    ]


def arithmetic_variants(weight: Tensor, norm: Tensor) -> list[Variant]:
    """A bias, and what Gemma, Cohere, Granite and Falcon-H1 do to their logits.

    The configs name the other factors of these models too, which are not the head's.
    """
    bias = st.bf16(np.random.default_rng(SEED).normal(0, 0.5, len(weight.values)))
    tied = {EMBEDDING: weight, NORM: norm}
    return [
        Variant(
            "bias",
            "lm_head.bias beside lm_head.weight",
            [{HEAD: weight, BIAS: bias}],
            HEAD,
            config={"model_type": "phi", "architectures": ["PhiForCausalLM"]},
        ),
        Variant(
            "softcap-gemma2",
            "30 tanh(z / 30)",
            [tied],
            EMBEDDING,
            config={
                "model_type": "gemma2",
                "architectures": ["Gemma2ForCausalLM"],
                "final_logit_softcapping": 30.0,
                "attn_logit_softcapping": 50.0,
            },
            transform={"softcap": 30.0},
        ),
        Variant(
            "scale-cohere",
            "logits times logit_scale",
            [tied],
            EMBEDDING,
            config={
                "model_type": "cohere",
                "architectures": ["CohereForCausalLM"],
                "logit_scale": 0.8333333333333334,
            },
            transform={"multiply": 0.8333333333333334},
        ),
        Variant(
            "scale-granite",
            "logits divided by logits_scaling",
            [tied],
            EMBEDDING,
            config={
                "model_type": "granite",
                "architectures": ["GraniteForCausalLM"],
                "logits_scaling": 6.0,
                "attention_multiplier": 0.015625,
                "embedding_multiplier": 12.0,
                "residual_multiplier": 0.22,
            },
            transform={"divide": 6.0},
        ),
        Variant(
            "scale-falcon-h1",
            "logits times lm_head_multiplier",
            [tied],
            EMBEDDING,
            config={
                "model_type": "falcon_h1",
                "architectures": ["FalconH1ForCausalLM"],
                "lm_head_multiplier": 0.0390625,
                "embedding_multiplier": 5.656854249492381,
            },
            transform={"multiply": 0.0390625},
        ),
    ]


def write_variants(out: Path, model_dir: Path) -> None:
    model_config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    tensors = st.read(model_dir / "model.safetensors")
    weight, norm = tensors[EMBEDDING], tensors[NORM]
    variants = storage_variants(weight, norm) + arithmetic_variants(weight, norm)
    for variant in variants:
        variant.write(out / variant.name, model_config)
    expected = {v.name: v.expected(model_config["vocab_size"]) for v in variants}
    write_json(out / "variants.json", expected)
