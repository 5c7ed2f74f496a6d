"""The example on a real llama.cpp: the head is exact, of every type that can be read, and the others are refused."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
pytest.importorskip("cyllama")
pytest.importorskip("mpmath")
HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "tiny-qwen3"
CAPTURED = HERE.parent / "captured" / "tiny-qwen3.safetensors"
sys.path.append(str(HERE))
from gguf_head import read_head  # noqa: E402
from make_gguf import make, safetensors_file  # noqa: E402

import isologit  # noqa: E402

# By its path: python/tests, which may run in the same process, has a module of that name.
_spec = importlib.util.spec_from_file_location(
    "expected_of_engines", HERE.parents[1] / "python" / "tests_engines" / "expected.py"
)
expected = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(expected)

TOKENS = [269, 259, 342, 12]  # " of the LORD,"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    for kind in ("F32", "F16", "BF16", "Q8_0"):
        make(MODEL, folder / f"tied-{kind}.gguf", kind)
    make(MODEL, folder / "own-BF16.gguf", "BF16", own_head=True)
    make(MODEL, folder / "own-Q8_0.gguf", "Q8_0", own_head=True)
    return folder


def real(head) -> np.ndarray:
    """The weight's values as f32."""
    weight = head.weight
    return (weight.astype(np.uint32) << 16).view(np.float32) if weight.dtype == np.uint16 else weight.astype(np.float32)


@pytest.mark.parametrize("name", ["tied-F32", "tied-F16", "tied-BF16", "own-BF16"])
def test_logits_and_logprobs_are_exact(files, name):
    from generate import Body

    head = read_head(files / f"{name}.gguf")
    assert head.weight.shape == (4096, 128) and head.bias is None and head.steps["softcap"] is None
    body = Body(str(files / f"{name}.gguf"))
    hidden = body.hidden_states(body.vocab.tokenize("In the beginning", add_special=True, parse_special=False))
    scores = isologit.score(hidden[-1:], token_ids=[269], outputs=("logprobs",), top_k=1024, **head.arguments())
    right = expected.logits(hidden[-1], real(head))
    ids = scores.top_k_ids[0].tolist()
    assert ids == sorted(range(4096), key=lambda v: (-right[v], v))[:1024]
    assert expected.bits(scores.top_k_logprobs[0]) == expected.bits(expected.log_softmax(right, ids))
    assert expected.bits(scores.logprobs) == expected.bits(expected.log_softmax(right, [269]))


def test_hidden_states_are_those_that_the_head_is_applied_to(files):
    """Near the rows that Transformers makes in bf16, after the last norm."""
    from generate import Body

    captured = safetensors_file.read(CAPTURED)
    rows = safetensors_file.f32(captured["hidden_states"])[:128]
    hidden = Body(str(files / "tied-F32.gguf")).hidden_states([0, *captured["token_ids"].values[:127].tolist()])
    assert np.abs(hidden - rows).mean() < 0.02 and rows.std() > 1


def generate(*arguments) -> list[str]:
    command = [sys.executable, str(HERE / "generate.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_generate(files):
    model = files / "tied-BF16.gguf"
    greedy = generate(model, "In the beginning", "--tokens", 4, "--temperature", 0)
    assert greedy[0].startswith("prompt: 3 tokens, mean logprob -2.7")
    assert [int(line.split()[0]) for line in greedy[1:-1]] == TOKENS
    told = rf"isologit {re.escape(isologit.__version__)}: exact arithmetic, kernel \w+, of token_embd\.weight"
    assert re.fullmatch(told, greedy[-1])
    drawn = generate(model, "In the beginning", "--seed", 7)
    assert len(drawn) == 10 and drawn == generate(model, "In the beginning", "--seed", 7)
    assert drawn != generate(model, "In the beginning", "--seed", 8)


@pytest.mark.parametrize(("name", "tensor"), [("tied-Q8_0", "token_embd.weight"), ("own-Q8_0", "output.weight")])
def test_a_quantised_head_is_refused(files, name, tensor):
    with pytest.raises(ValueError, match=f"{tensor} is Q8_0; isologit takes F16, BF16, F32 and F64"):
        read_head(files / f"{name}.gguf")


def command(verb: str, model: Path, *arguments) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "isologit", verb, str(model), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("name", "tensor"), [("tied-BF16", "token_embd.weight"), ("own-BF16", "output.weight")])
def test_the_command_reads_the_head(files, tmp_path, name, tensor):
    """The same bits as of the checkpoint that the file was made of."""
    told = json.loads(command("info", files / f"{name}.gguf", "--json").stdout)
    assert told["tensor"] == tensor and told["dtype"] == "bf16" and told["shape"] == [4096, 128]
    results = []
    for i, model in enumerate((files / f"{name}.gguf", MODEL)):
        rows = ("--input", CAPTURED, "--rows", "0:64", "--output", tmp_path / str(i))
        assert command("score", model, *rows).returncode == 0
        results.append((tmp_path / str(i)).read_bytes())
    assert results[0] == results[1]


def small(path: Path, architecture: str, bias: bool = False, parts: int = 1, ids: int = 4, **fields) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in fields.items():
        writer.add_float32(f"{architecture}.{name}", value)
    writer.add_vocab_size(ids)
    writer.add_uint16("split.count", parts)
    writer.add_tensor("output.weight", np.arange(12, dtype=np.float32).reshape(4, 3) / 8)
    writer.add_tensor("token_embd.weight", np.zeros((4, 3), np.float32))
    if bias:
        writer.add_tensor("output.bias", np.arange(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "fields", "after"),
    [
        ("llama", {}, lambda z: z),
        ("qwen2", {"bias": True}, lambda z: z + np.arange(4)),
        ("llama", {"ids": 3}, lambda z: z[:3]),  # a row of padding
        ("gemma2", {"final_logit_softcapping": 2.0}, lambda z: 2 * np.tanh(z / 2)),
        ("gemma2", {}, lambda z: 30 * np.tanh(z / 30)),  # llama.cpp's own default
        ("command-r", {"logit_scale": 0.25}, lambda z: z * 0.25),
        ("granite", {"logit_scale": 4.0}, lambda z: z / 4),
        ("grok", {"logit_scale": 0.5, "final_logit_softcapping": 3.0}, lambda z: 3 * np.tanh(z / 2 / 3)),
    ],
)
def test_what_llama_cpp_does_after_the_head(tmp_path, architecture, fields, after):
    head = read_head(small(tmp_path / "a.gguf", architecture, **fields))
    z = after(np.arange(12).reshape(4, 3).sum(-1) / 8)
    found = isologit.score(np.ones((1, 3), np.float32), outputs=(), top_k=len(z), **head.arguments())
    assert found.top_k_ids[0].tolist() == list(range(len(z)))[::-1]
    assert np.abs(found.top_k_logprobs[0][::-1] - (z - np.log(np.exp(z).sum()))).max() < 1e-6


@pytest.mark.parametrize(
    ("architecture", "fields", "message"),
    [
        ("llama", {"parts": 2}, "is one of 2 parts of a model; put them together: llama-gguf-split --merge"),
        ("granite", {}, "logit_scale"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("any", {}, "any"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, architecture, fields, message):
    with pytest.raises(ValueError, match=message):
        read_head(small(tmp_path / "a.gguf", architecture, **fields))
