"""Train the example model, and capture its hidden states. Needs torch, transformers, tokenizers."""

import math
import os
import sys
import time
from pathlib import Path

# Set before torch and tokenizers start their thread pools: one thread gives the same bits each run.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging

SEED = 20261122
VOCAB_SIZE = 4096
END_OF_TEXT = "<|endoftext|>"
CONTEXT = 128  # tokens in one training or captured sequence
BATCH = 8
LEARNING_RATE = 3e-3
WARMUP_STEPS = 100
CAPTURED_SEQUENCES = 16
IGNORE_INDEX = -100

logging.disable_progress_bar()


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def token_stream(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> np.ndarray:
    """Every document after an end-of-text token, one after the other."""
    ids: list[int] = []
    for document in documents:
        ids.append(tokenizer.eos_token_id)
        ids.extend(tokenizer(document, add_special_tokens=False).input_ids)
    return np.array(ids, dtype=np.int64)


def unigram_perplexity(training: np.ndarray, held_out: np.ndarray, vocab_size: int) -> float:
    """What a model that knows only how often each token occurs would reach (add-one counts)."""
    counts = np.bincount(training, minlength=vocab_size) + 1.0
    return math.exp(-np.log(counts / counts.sum())[held_out].mean())


def loss_of(model: Qwen3ForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=windows[:, :-1], use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def held_out_perplexity(model: Qwen3ForCausalLM, stream: np.ndarray) -> float:
    windows = np.lib.stride_tricks.sliding_window_view(stream, CONTEXT + 1)[::CONTEXT]
    windows = torch.from_numpy(windows.copy())
    losses = [loss_of(model, batch).item() * len(batch) for batch in windows.split(BATCH)]
    return math.exp(sum(losses) / len(windows))


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_window_layers=4,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Qwen3ForCausalLM(config)


def learning_rate_factor(step: int, steps: int) -> float:
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def fit(model: Qwen3ForCausalLM, stream: np.ndarray, steps: int) -> None:
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: learning_rate_factor(s, steps)
    )
    rng = np.random.default_rng(SEED)
    start = time.monotonic()
    running = None
    model.train()
    for step in range(1, steps + 1):
        offsets = rng.integers(0, len(stream) - CONTEXT, BATCH)
        windows = torch.from_numpy(np.stack([stream[o : o + CONTEXT + 1] for o in offsets]))
        loss = loss_of(model, windows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if step % 100 == 0 or step == steps:
            seconds = time.monotonic() - start
            left = seconds / step * (steps - step)
            say(
                f"step {step}/{steps}  perplexity {math.exp(running):.1f}  "
                f"{step * BATCH * CONTEXT / seconds:.0f} tokens/s  {left:.0f} s left"
            )
    model.eval()


def train(out: Path, documents: tuple[list[str], list[str]], steps: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    training, held_out = documents
    say(f"{len(training)} training documents, {len(held_out)} held out")
    tokenizer = train_tokenizer(training)
    stream = token_stream(tokenizer, training)
    held_out_stream = token_stream(tokenizer, held_out)
    model = new_model(tokenizer)
    say(
        f"{len(tokenizer)} tokens in the vocabulary, {len(stream)} to train on, "
        f"{len(held_out_stream)} held out, {model.num_parameters()} parameters"
    )
    fit(model, stream, steps)
    model = model.to(torch.bfloat16)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "held-out.txt").write_text("\n\n".join(passages(held_out)) + "\n", encoding="utf-8")
    model = model.float()  # the saved bf16 values; float32 arithmetic is faster on most CPUs
    unigrams = unigram_perplexity(stream, held_out_stream, len(tokenizer))
    say(f"held-out perplexity of token frequencies alone: {unigrams:.2f}")
    say(f"held-out perplexity of the model: {held_out_perplexity(model, held_out_stream):.2f}")


def passages(held_out: list[str]) -> list[str]:
    """The first CAPTURED_SEQUENCES held-out documents, evenly spread, long enough to fill one."""
    long_enough = [d for d in held_out if len(d) >= 8 * CONTEXT]
    picks = np.linspace(0, len(long_enough) - 1, CAPTURED_SEQUENCES).round().astype(int)
    return [long_enough[i] for i in picks]


def sequences(model_dir: Path) -> np.ndarray:
    """[CAPTURED_SEQUENCES, CONTEXT] input ids: each passage's start, after an end-of-text token."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    text = (model_dir / "held-out.txt").read_text(encoding="utf-8")
    streams = [token_stream(tokenizer, [passage]) for passage in text.rstrip("\n").split("\n\n")]
    return np.stack([stream[:CONTEXT] for stream in streams])


@torch.no_grad()
def hidden_states(model_dir: Path, input_ids: np.ndarray) -> torch.Tensor:
    """[rows, H] bf16: the states after the final norm, which lm_head is applied to."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).eval()
    states = model.model(input_ids=torch.from_numpy(input_ids), use_cache=False).last_hidden_state
    return states.flatten(0, 1).contiguous()


def captured_path(model_dir: Path) -> Path:
    """Beside the model's folder: engines load every safetensors file that they find in it."""
    model_dir = model_dir.resolve()
    return model_dir.parent / "captured" / f"{model_dir.name}.safetensors"


def capture(model_dir: Path) -> None:
    """Row by row the hidden state, and the id of the token that follows it in the text."""
    input_ids = sequences(model_dir)
    token_ids = np.full_like(input_ids, IGNORE_INDEX)
    token_ids[:, :-1] = input_ids[:, 1:]
    tensors = {
        "hidden_states": hidden_states(model_dir, input_ids),
        "token_ids": torch.from_numpy(token_ids.reshape(-1)),
    }
    path = captured_path(model_dir)
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)
    say(f"captured {token_ids.size} rows, {(token_ids >= 0).sum()} of them with a next token")
