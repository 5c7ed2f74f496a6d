"""Tests of the committed example, and of what make.py generates.

The files are read with the safetensors library, which make.py's own reader and writer do not use.
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import text

np = pytest.importorskip("numpy")
pytest.importorskip("ml_dtypes")  # safetensors.numpy reads BF16 as ml_dtypes.bfloat16
safetensors = pytest.importorskip("safetensors")
from safetensors.numpy import load_file  # noqa: E402

HERE = Path(__file__).resolve().parent
CAPTURED = HERE.parent / "captured" / "tiny-qwen3.safetensors"
VOCAB_SIZE, HIDDEN_SIZE, SEQUENCES, CONTEXT = 4096, 128, 16, 128
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

# folder: (head tensor, dtype, rows, tied)
STORED = {
    "tied-bf16": (EMBEDDING, "BF16", 4096, True),
    "tied-f16": (EMBEDDING, "F16", 4096, True),
    "tied-f32": (EMBEDDING, "F32", 4096, True),
    "untied-bf16": (HEAD, "BF16", 4096, False),
    "untied-f16": (HEAD, "F16", 4096, False),
    "untied-f32": (HEAD, "F32", 4096, False),
    "tied-flag-with-lm-head": (HEAD, "BF16", 4096, False),
    "sharded-tied": (EMBEDDING, "BF16", 4096, True),
    "sharded-untied": (HEAD, "BF16", 4096, False),
    "padded-nan": (EMBEDDING, "BF16", 4224, True),
    "padded-large": (HEAD, "BF16", 4224, False),
    "nested-tied": ("model.language_model.embed_tokens.weight", "BF16", 4096, True),
    "nested-untied": ("language_model.lm_head.weight", "BF16", 4096, False),
    "bias": (HEAD, "BF16", 4096, False),
    "softcap-gemma2": (EMBEDDING, "BF16", 4096, True),
    "scale-cohere": (EMBEDDING, "BF16", 4096, True),
    "scale-granite": (EMBEDDING, "BF16", 4096, True),
    "scale-falcon-h1": (EMBEDDING, "BF16", 4096, True),
}
OTHER_VALUES = {"tied-f16", "untied-f16", "untied-f32"}  # the rest hold the committed values
# folder: (config.json key, its value, the same in variants.json)
TRANSFORMED = {
    "softcap-gemma2": ("final_logit_softcapping", 30.0, "softcap"),
    "scale-cohere": ("logit_scale", 0.8333333333333334, "multiply"),
    "scale-granite": ("logits_scaling", 6.0, "divide"),
    "scale-falcon-h1": ("lm_head_multiplier", 0.0390625, "multiply"),
}


def run_make(*args: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, HERE / "make.py", *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def stored_dtype(path: Path, name: str) -> str:
    with safetensors.safe_open(path, framework="np") as file:
        return file.get_slice(name).get_dtype()


def load_checkpoint(folder: Path) -> tuple[dict, dict]:
    """(config, tensors), following the index where there is one."""
    config = json.loads((folder / "config.json").read_text())
    index_file = folder / "model.safetensors.index.json"
    if not index_file.exists():
        return config, load_file(folder / "model.safetensors")
    index = json.loads(index_file.read_text())
    tensors = {}
    for file in set(index["weight_map"].values()):
        shard = load_file(folder / file)
        assert set(shard) == {t for t, f in index["weight_map"].items() if f == file}
        tensors |= shard
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    return config, tensors


@pytest.fixture(scope="module")
def model():
    return load_file(HERE / "model.safetensors")


@pytest.fixture(scope="module")
def captured():
    return load_file(CAPTURED)


@pytest.fixture(scope="module")
def input_ids(captured):
    """Each sequence starts with end-of-text; its other inputs are the ids scored before them."""
    scored = captured["token_ids"].reshape(SEQUENCES, CONTEXT)[:, :-1]
    return np.concatenate([np.zeros((SEQUENCES, 1), np.int64), scored], axis=1)


def test_committed_config():
    config = json.loads((HERE / "config.json").read_text())
    expected = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "head_dim": 32,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }
    assert {key: config[key] for key in expected} == expected


def test_committed_weights(model):
    assert {t.dtype.name for t in model.values()} == {"bfloat16"}
    assert model[EMBEDDING].shape == (VOCAB_SIZE, HIDDEN_SIZE)
    assert HEAD not in model
    assert all(np.isfinite(t.astype(np.float32)).all() for t in model.values())


def test_committed_size():
    files = subprocess.run(["git", "ls-files", "-z", ".", CAPTURED], cwd=HERE, capture_output=True, text=True)
    if files.returncode != 0:
        pytest.skip("not a git checkout: cannot tell which files are committed")
    names = [name for name in files.stdout.split("\0") if name]
    assert {"model.safetensors", "../captured/tiny-qwen3.safetensors", "tokenizer.json"} <= set(names)
    # Engines load every safetensors file of a model's folder.
    assert [name for name in names if Path(name).parent == Path() and name.endswith(".safetensors")] == [
        "model.safetensors"
    ]
    assert sum((HERE / name).stat().st_size for name in names) < 8_000_000


def test_captured_layout(captured):
    assert set(captured) == {"hidden_states", "token_ids"}
    assert captured["hidden_states"].dtype.name == "bfloat16"
    assert captured["hidden_states"].shape == (SEQUENCES * CONTEXT, HIDDEN_SIZE)
    assert captured["token_ids"].dtype == np.int64
    ids = captured["token_ids"].reshape(SEQUENCES, CONTEXT)
    assert (ids[:, -1] == -100).all()
    assert ((ids[:, :-1] >= 0) & (ids[:, :-1] < VOCAB_SIZE)).all()


def test_captured_ids_spell_the_held_out_text(input_ids):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(HERE / "tokenizer.json"))
    assert tokenizer.token_to_id("<|endoftext|>") == 0
    passages = (HERE / "held-out.txt").read_text().split("\n\n")
    assert len(passages) == SEQUENCES
    for passage, ids in zip(passages, input_ids, strict=True):
        spelled = tokenizer.decode(ids[1:].tolist())
        assert passage.startswith(spelled)
        assert len(spelled) > CONTEXT


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_captured_states_are_a_fresh_forward(captured, input_ids, dtype):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    fresh = transformers.AutoModelForCausalLM.from_pretrained(HERE, dtype=getattr(torch, dtype))
    with torch.no_grad():
        states = fresh.model(input_ids=torch.from_numpy(input_ids)).last_hidden_state
        logits = fresh(input_ids=torch.from_numpy(input_ids)).logits
    # What the head is applied to: logits, in torch's own arithmetic, are these states times it.
    head = fresh.lm_head.weight.detach().double()
    error = (logits.double() - states.double() @ head.T).abs().max().item()
    assert error < (0.1 if dtype == "bfloat16" else 1e-3)
    # Another CPU may round the body's sums elsewhere, so equal bits are not asked for.
    states = states.flatten(0, 1).double().numpy()
    ours = captured["hidden_states"].astype(np.float64)
    error = np.linalg.norm(ours - states, axis=1) / np.linalg.norm(states, axis=1)
    assert error.max() < 0.05
    assert error.mean() < 0.01


def test_perplexity_in_the_readme(model, captured):
    ids = captured["token_ids"]
    hidden = captured["hidden_states"].astype(np.float64)[ids >= 0]
    logits = hidden @ model[EMBEDDING].astype(np.float64).T
    top = logits.max(axis=1, keepdims=True)
    lse = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    logprobs = np.take_along_axis(logits, ids[ids >= 0][:, None], axis=1)[:, 0] - lse
    readme = (HERE / "README.md").read_text()
    stated = re.search(r"captured rows \| (\d+\.\d{4}) \|", readme)
    assert stated, "README.md no longer states the perplexity of the captured rows"
    assert math.exp(-logprobs.mean()) == pytest.approx(float(stated[1]), abs=6e-5)
    unigrams = re.search(r"token frequencies alone, all held-out text \| (\d+\.\d+) \|", readme)
    assert float(stated[1]) < float(unigrams[1]) / 5


def test_train_on_other_text(tmp_path):
    for module in ("torch", "transformers", "tokenizers"):
        pytest.importorskip(module)
    words = (HERE / "held-out.txt").read_text().split()
    rng = np.random.default_rng(1)
    passages = [" ".join(rng.choice(words, 400)) for _ in range(60)]
    (tmp_path / "words.txt").write_text("\n\n".join(passages))
    out = tmp_path / "model"
    made = run_make("train", "--out", out, "--text", tmp_path / "words.txt", "--steps", 2)
    assert made.returncode == 0, made.stderr
    assert made.stdout == ""
    assert "step 2/2" in made.stderr
    config, tensors = load_checkpoint(out)
    assert tensors[EMBEDDING].shape == (config["vocab_size"], HIDDEN_SIZE)
    assert HEAD not in tensors
    captured = load_file(tmp_path / "captured" / "model.safetensors")
    assert captured["hidden_states"].shape == (SEQUENCES * CONTEXT, HIDDEN_SIZE)
    held_out = (out / "held-out.txt").read_text().strip().split("\n\n")
    assert len(held_out) == SEQUENCES
    assert set(held_out) == {passages[10], passages[30], passages[50]}


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """The folder `make.py variants` writes where neither torch nor safetensors can be imported."""
    blocked = tmp_path_factory.mktemp("blocked")
    for module in ("torch", "transformers", "tokenizers", "safetensors", "ml_dtypes"):
        (blocked / f"{module}.py").write_text("raise ImportError('needs numpy only')\n")
    out = tmp_path_factory.mktemp("variants")
    made = run_make("variants", out, env=os.environ | {"PYTHONPATH": str(blocked)})
    assert made.returncode == 0, made.stderr
    return out


def test_variants_are_all_here(variants):
    assert {p.name for p in variants.iterdir()} == {*STORED, "variants.json"}
    expected = json.loads((variants / "variants.json").read_text())
    assert set(expected) == set(STORED)
    for name, (head, dtype, rows, tied) in STORED.items():
        found = expected[name]
        assert [found[k] for k in ("head", "dtype", "rows", "tied")] == [head, dtype, rows, tied]
        assert (found["vocab_size"], found["hidden_size"]) == (VOCAB_SIZE, HIDDEN_SIZE)
        assert found["bias"] == ("lm_head.bias" if name == "bias" else None)
        key, value = TRANSFORMED[name][2:0:-1] if name in TRANSFORMED else (None, None)
        for transform in ("softcap", "multiply", "divide"):
            assert found[transform] == (value if transform == key else None)
        same = name not in OTHER_VALUES | {"bias"} | set(TRANSFORMED)
        assert found["same_logprobs_as"] == ("tied-bf16" if same else None)


@pytest.mark.parametrize("name", STORED)
def test_variant_head(variants, model, name):
    head, dtype, rows, tied = STORED[name]
    config, tensors = load_checkpoint(variants / name)
    assert config["tie_word_embeddings"] == (tied or name == "tied-flag-with-lm-head")
    text_config = config["text_config"] if name.startswith("nested-") else config
    assert (text_config["vocab_size"], text_config["hidden_size"]) == (VOCAB_SIZE, HIDDEN_SIZE)
    dtypes = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    assert tensors[head].dtype.name == text_config["dtype"] == dtypes[dtype]
    assert tensors[head].shape == (rows, HIDDEN_SIZE)
    weight = tensors[head][:VOCAB_SIZE].astype(np.float64)
    base = model[EMBEDDING].astype(np.float64)
    assert np.array_equal(weight, base) == (name not in OTHER_VALUES)
    np.testing.assert_allclose(weight, base, rtol=2.0**-8, atol=2.0**-24)
    for other in tensors:  # a reader that takes the embedding for the head is seen
        if other != head and other.endswith("embed_tokens.weight"):
            assert not np.array_equal(tensors[other][:VOCAB_SIZE].astype(np.float64), base)


def test_untied_f16_and_f32_need_their_own_bits(variants):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half = load_file(variants / "untied-f16" / "model.safetensors")[HEAD]
    single = load_file(variants / "untied-f32" / "model.safetensors")[HEAD]
    assert (half.astype(ml_dtypes.bfloat16).astype(np.float16) != half).mean() > 0.5
    assert (single.astype(np.float16).astype(np.float32) != single).mean() > 0.9
    assert (single.astype(ml_dtypes.bfloat16).astype(np.float32) != single).mean() > 0.9


def test_padding_shows_where_it_leaks(variants):
    nan = load_checkpoint(variants / "padded-nan")[1][EMBEDDING][VOCAB_SIZE:]
    large = load_checkpoint(variants / "padded-large")[1][HEAD][VOCAB_SIZE:]
    assert len(nan) == len(large) == 128
    assert np.isnan(nan.astype(np.float32)).all()
    assert (large.astype(np.float64) == 2.0**100).all()


def test_sharded_variants_have_two_files(variants):
    for name, file in {"sharded-tied": 1, "sharded-untied": 2}.items():
        files = sorted(p.name for p in (variants / name).glob("*.safetensors"))
        assert files == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        index = json.loads((variants / name / "model.safetensors.index.json").read_text())
        assert index["weight_map"][STORED[name][0]] == files[file - 1]


def test_bias_variant(variants):
    bias = load_checkpoint(variants / "bias")[1]["lm_head.bias"].astype(np.float64)
    assert bias.shape == (VOCAB_SIZE,)
    assert 0.4 < bias.std() < 0.6
    assert abs(bias.mean()) < 0.05


@pytest.mark.parametrize("name", STORED)
def test_variant_transform(variants, name):
    config = json.loads((variants / name / "config.json").read_text())
    found = {key: config[key] for key, _, _ in TRANSFORMED.values() if key in config}
    assert found == (dict([TRANSFORMED[name][:2]]) if name in TRANSFORMED else {})


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    out = tmp_path_factory.mktemp("full-size")
    made = run_make("full-size", out, "--shape", "20001,72", "--rows", "37")
    assert made.returncode == 0, made.stderr
    return out


def test_full_size_checkpoint(full_size):
    config, tensors = load_checkpoint(full_size)
    assert (config["vocab_size"], config["hidden_size"]) == (20001, 72)
    assert config["tie_word_embeddings"] is False
    assert len(list(full_size.glob("model-*.safetensors"))) == 2
    assert stored_dtype(full_size / "model-00002-of-00002.safetensors", HEAD) == "BF16"
    head = tensors[HEAD].astype(np.float64)
    assert head.shape == (20001, 72)
    # 20001 * 72 values are two pieces; each must be normal, and they must differ.
    for piece in np.split(head.reshape(-1), [1 << 20]):
        assert piece.std() == pytest.approx(0.02, rel=0.01)
        assert abs(piece.mean()) < 0.0002
        assert np.mean(np.abs(piece) < 0.02) == pytest.approx(0.6827, abs=0.005)
    assert not np.array_equal(head.reshape(-1)[:1000], head.reshape(-1)[1 << 20 :][:1000])


def test_full_size_captured(full_size):
    captured = load_file(full_size / "captured.safetensors")
    assert captured["hidden_states"].shape == (37, 72)
    assert captured["hidden_states"].dtype.name == "bfloat16"
    assert captured["hidden_states"].astype(np.float64).std() == pytest.approx(1, abs=0.06)
    assert captured["token_ids"].dtype == np.int64
    assert captured["token_ids"].shape == (37,)
    assert ((captured["token_ids"] >= 0) & (captured["token_ids"] < 20001)).all()
    assert len(set(captured["token_ids"])) > 30


def test_full_size_is_the_same_each_time(full_size, tmp_path):
    assert run_make("full-size", tmp_path, "--shape", "20001,72", "--rows", "37").returncode == 0
    for file in full_size.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("shape", ["20001", "0,72", "20001,72,1", "a,b"])
def test_full_size_refuses_other_shapes(tmp_path, shape):
    made = run_make("full-size", tmp_path / "out", "--shape", shape)
    assert made.returncode == 2
    assert "--shape" in made.stderr
    assert not (tmp_path / "out").exists()


def test_bf16_rounds_to_nearest_even():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    import safetensors_file as st

    bits = np.random.default_rng(1).integers(0, 0x7F800000, 100_000, dtype=np.uint32)
    ties = (np.arange(0x7F80, dtype=np.uint32) << 16) | 0x8000
    values = np.concatenate([bits, ties, ties - 1, ties + 1]).view(np.float32)
    values = np.concatenate([values, -values, np.array([np.inf, -np.inf], np.float32)])
    rounded = values.astype(ml_dtypes.bfloat16)
    assert np.array_equal(st.bf16(values).values, rounded.view(np.uint16))
    assert np.array_equal(st.f32(st.bf16(values)), rounded.astype(np.float32))


def test_held_out_text_is_never_trained_on():
    training, held_out = text.split([f"document {i}" for i in range(100)])
    assert len(held_out) == 5
    assert sorted(training + held_out) == sorted(f"document {i}" for i in range(100))
    with pytest.raises(SystemExit, match="give more text"):
        text.split(["too", "little"])


def test_plain_files_become_documents(tmp_path):
    paragraph = "x" * 800
    (tmp_path / "a.txt").write_text(f"{paragraph}\n\n{paragraph}\n \n{paragraph}\n")
    documents = text.file_documents([tmp_path / "a.txt"])
    assert documents == [f"{paragraph}\n{paragraph}", paragraph]


def test_missing_text_says_what_to_install(monkeypatch):
    monkeypatch.setattr(text, "BIBLE", "/nonexistent/bible")
    with pytest.raises(SystemExit, match="apt-get install bible-kjv"):
        text.bible_documents()
