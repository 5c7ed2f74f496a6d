"""Configurations of Transformers made tiny, so that a model of every class can be built in a moment."""

import copy
import re
from typing import Any

LAYERS = re.compile(
    r"^(num_hidden_layers|num_layers|n_layers?|encoder_layers|decoder_layers|num_decoder_layers|num_encoder_layers|"
    r"num_blocks|depth|num_self_attends_per_block|vision_layers|.*num_hidden_layers|num_speech_encoder_layers|"
    r".*_encoder_layers|.*_decoder_layers|e_layers|d_layers|n_blocks|.*_num_layers|num_attention_layers)$"
)
WIDE = re.compile(
    r"^(hidden_size|d_model|n_embd|embed_dim|dim|emb_dim|embedding_size|input_hidden_size|encoder_hidden_size|"
    r"hidden_dim|projection_dim|text_hidden_size|cross_attention_hidden_size|attention_hidden_size|lru_width|"
    r".*_hidden_size|output_dim|out_hidden_size|attention_size|word_embed_proj_dim|model_dim|.*_dim_model)$"
)
INNER = re.compile(
    r"^(.*intermediate_size|.*ffn_dim|d_ff|n_inner|d_inner|ffn_hidden_size|mlp_dim|.*inner_dim|feed_forward_size|"
    r"intermediate_dim|dim_feedforward|.*_intermediate_dim|filter_size)$"
)
EXPERTS = re.compile(r"^(num_experts|n_routed_experts|num_local_experts|moe_num_experts|num_routed_experts|n_experts)$")
CHOSEN = re.compile(r"^(moe_top_?k|top_k_experts|moe_k|num_selected_experts|(num_)?experts_per_tok(en)?)$")
HEADS = re.compile(r"^(num_attention_heads|n_heads?|num_heads|encoder_attention_heads|decoder_attention_heads|"
                   r"num_q_heads|.*num_attention_heads|.*_attention_heads)$")
KV_HEADS = re.compile(r"^(num_key_value_heads|num_kv_heads|n_kv_heads|.*num_key_value_heads)$")
HEAD_DIM = re.compile(
    r"^(head_dim|qk_(rope|nope)_head_dim|v_head_dim|d_kv|global_head_dim|.*attention_head_dim|kv_channels|"
    r"attention_head_size)$"
)
TOKEN = re.compile(r".*(_token_id|_token_index|_id|_index)s?$")
LONG = re.compile(r"^(max_position_embeddings|n_positions|max_(source|target)_positions|n_ctx|max_seq_len)$")

SPECIAL = 40  # ids below this are special, ids of a test's input are not
VOCAB = 199


# What fits no pattern, by model_type.
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16}
WIDE_HEADS = {"hidden_size": 256, "head_dim": 64}
OVERRIDES: dict[Any, dict[str, Any]] = {
    "bamba": MAMBA,
    "granitemoehybrid": MAMBA,
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "chameleon": {"vocabulary_map": {"<image>": 5, "IMGIMGBS": 6, "IMGIMGAZ": 7, "<pad>": 1}},
    "emu3": {"vocabulary_map": {"<image>": 5, "<|visual token 000000|>": 6, "<|extra_200|>": 7}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "esm": {"vocab_size": VOCAB, "pad_token_id": 1, "mask_token_id": 5},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "glm4v_text": WIDE_HEADS,
    "glm46v_text": WIDE_HEADS,
    "glm4v_moe_text": WIDE_HEADS,
    "glm_ocr_text": WIDE_HEADS,
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "xlnet": {"d_head": 16},
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"]},
    "blip-2": {"image_token_index": 5},
    "instructblip": {"image_token_index": 5},
    "instructblipvideo": {"video_token_index": 5},
    "dory": {"num_hidden_layers": 3, "n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1},
}


class Shrinker:
    """`how`: "even" gives one width to all, and "headed" one with heads as wide as they were; "divided" divides every
    width by the same number."""

    def __init__(self, how: str, layers: int) -> None:
        self.how = how
        self.layers = layers
        self.next_token = 3

    def width(self, value: int, even: int) -> int:
        if self.how == "even":
            return min(value, even)
        if self.how == "headed":
            return min(value, 512)
        return value if value <= 128 else max(value // 16, 16)

    def number(self, key: str, value: int) -> int:
        if key.endswith("vocab_size") or key in ("n_tokens", "n_vocab", "vocab_size_per_layer_input"):
            return min(value, VOCAB)
        if TOKEN.match(key) and value >= 0:
            self.next_token += 1
            return min(value, self.next_token)
        if LAYERS.match(key):
            return min(value, self.layers)
        if WIDE.match(key):
            return self.width(value, 64)
        if INNER.match(key):
            return self.width(value, 96)
        if EXPERTS.match(key):
            return min(value, 4)
        if CHOSEN.match(key):
            return min(value, 2)
        if self.how != "divided":
            if HEADS.match(key):
                return min(value, 4)
            if KV_HEADS.match(key):
                return min(value, 2)
            if HEAD_DIM.match(key) and self.how == "even":
                return min(value, 16)
        if key in ("n_group", "topk_group", "moe_num_shared_experts", "n_shared_experts"):
            return min(value, 1)
        if LONG.match(key):
            return min(value, 512)
        if value > 4096:
            return value // 16
        return value

    def first_layers(self, value: Any, depth: Any) -> Any:
        """Of a list with an element for each layer."""
        return value[: self.layers] if isinstance(value, list) and len(value) == depth else value

    def shrink(self, key: str, value: Any) -> Any:
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int):
            return self.number(key, value)
        if isinstance(value, dict):
            depth = value.get("num_hidden_layers")
            small = {name: self.shrink(str(name), self.first_layers(item, depth)) for name, item in value.items()}
            if "head_dim" in small and small["head_dim"] is None and small.get("num_attention_heads"):
                small["head_dim"] = small.get("hidden_size", 64) // small["num_attention_heads"]
            if self.how != "divided" and value.get("num_key_value_heads") == value.get("num_attention_heads", 0):
                small["num_key_value_heads"] = small["num_attention_heads"]
            return {**small, **OVERRIDES.get(small.get("model_type"), {})}
        if isinstance(value, list) and key == "mrope_section" and self.how == "even":
            return [2, 3, 3]
        if isinstance(value, list) and TOKEN.match(key):
            return [self.shrink(key, item) for item in value]
        return value


DERIVED = ("layer_types", "mlp_layer_types", "attn_layer_indices", "layers_block_type", "layer_type", "torch_dtype",
           "dtype", "transformers_version", "_name_or_path", "architectures", "mlp_only_layers", "block_types",
           "_attn_implementation_internal", "compress_ratios", "layer_sliding_windows", "no_rope_layers",
           "qk_head_dim", "per_layer_config", "attention_layers", "attention_types")


def without(document: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Without these keys, and without those that are null, at any depth: the class finds its own values for them."""
    kept = {name: value for name, value in document.items() if value is not None or name == "head_dim"}
    kept = {name: value for name, value in kept.items() if name not in keys}
    return {key: without(value, keys) if isinstance(value, dict) else value for key, value in kept.items()}


def tiny_config(config_class: type, how: str, layers: int, text_type: str | None = None, derived: bool = False) -> Any:
    """An instance of the class with small sizes; with text_type, its text_config is of that model_type."""
    document = config_class().to_dict()
    if text_type is not None:
        from transformers import AutoConfig

        document["text_config"] = AutoConfig.for_model(text_type).to_dict()
    document = copy.deepcopy(document)
    document = without(document, () if derived else DERIVED)
    document = Shrinker(how, layers).shrink("", document)
    return config_class(**{key: value for key, value in document.items() if key != "model_type"})
