"""isologit.capture on a model of Transformers: the file's rows against the model called by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import isologit  # noqa: E402
from isologit import _captured  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tiny-qwen3"


@pytest.fixture(scope="module")
def model():
    return transformers.AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.bfloat16).eval()


def ids_of(seed, *shape):
    return torch.randint(1, 4096, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def states(model, ids):
    return model.model(ids).last_hidden_state


@torch.no_grad()
def test_rows_are_what_the_head_was_given(model, tmp_path, capfd):
    ids, mask = ids_of(0, 2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, :3] = 0
    with isologit.capture(model, tmp_path / "run.safetensors"):
        output = model(input_ids=ids, attention_mask=mask)
    said = capfd.readouterr().err
    assert "[*, 128] bfloat16" in said and "run.safetensors" in said and "captured 15 rows" in said
    rows = _captured.read(tmp_path / "run.safetensors")
    first = rows["sequence_ids"] == 0
    hidden = model.model(ids, attention_mask=mask).last_hidden_state
    order = rows["positions"][first].argsort()
    assert torch.equal(rows["hidden_states"][first][order], hidden[0])
    assert rows["token_ids"][first][order].tolist() == [*ids[0, 1:].tolist(), -100]
    second = rows["sequence_ids"] == 1
    order = rows["positions"][second].argsort()
    assert rows["positions"][second][order].tolist() == list(range(6))
    assert torch.equal(rows["hidden_states"][second][order], hidden[1, 3:])
    expected = output.logits[0].float().log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    reported = rows["logprobs"][first][rows["positions"][first].argsort()]
    assert torch.equal(reported[:-1], expected) and torch.isnan(reported[-1])


@torch.no_grad()
def test_generate_is_one_sequence(model, tmp_path):
    ids = ids_of(1, 2, 5)
    with isologit.capture(model, tmp_path / "run.safetensors"):
        made = model.generate(ids, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    rows = _captured.read(tmp_path / "run.safetensors")
    assert sorted(set(rows["sequence_ids"].tolist())) == [0, 1]
    for i in range(2):
        own = rows["sequence_ids"] == i
        positions, tokens = rows["positions"][own].tolist(), rows["token_ids"][own].tolist()
        known = {place: token for place, token in zip(positions, tokens, strict=True) if token != -100}
        # generate() asks for the last row of the prompt only; the last token is never an input.
        assert known == {place: int(made[i, place + 1]) for place in range(4, 9)}
        assert max(positions) == 9


@torch.no_grad()
def test_shards_appending_and_refusal(model, tmp_path):
    path = tmp_path / "run.safetensors"
    ids = ids_of(2, 1, 10)
    with isologit.capture(model, path, bytes_per_file=4 * (256 + 36)) as writer:
        model(input_ids=ids)
        assert sum(part["token_ids"].numel() for part in writer._parts) < 4
    opened = [_captured.safe_open(file, "pt") for file in _captured.shards(path)]
    assert [len(one.get_tensor("token_ids")) for one in opened] == [4, 4, 2]
    with pytest.raises(FileExistsError, match="exists; expected a new file"), isologit.capture(model, path):
        pass
    with isologit.capture(model, path, append=True):
        model(input_ids=ids)
    rows = _captured.read(path)
    assert len(rows["token_ids"]) == 20 and rows["sequence_ids"].tolist() == [0] * 10 + [1] * 10
    assert len(_captured.shards(path)) == 4 and not list(tmp_path.glob("*.unfinished"))
    half = len(rows["hidden_states"]) // 2
    assert torch.equal(rows["hidden_states"][:half], rows["hidden_states"][half:])


# Of 192 MiB that pass, in pieces of 1.5 MiB, at most 8 are held and copied once to be written.
LONG_RUN = """
import resource, sys
import torch
from isologit import _captured

def add(writer, rows):
    ids = torch.zeros(rows, dtype=torch.int64)
    states = torch.ones(rows, 4096, dtype=torch.bfloat16)
    writer.add(states, token_ids=ids, logprobs=torch.zeros(rows), positions=ids, sequence_ids=ids)

first = _captured.Writer(sys.argv[1] + "/first.safetensors", bytes_per_file=8 << 20, say=lambda _: None)
add(first, 192)
first.close()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
writer = _captured.Writer(sys.argv[1] + "/long.safetensors", bytes_per_file=8 << 20, say=lambda _: None)
for _ in range(128):
    add(writer, 192)
writer.close()
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(_captured.shards(sys.argv[1] + "/long.safetensors")), grown)
"""


def test_a_long_run_takes_bounded_memory(tmp_path):
    done = subprocess.run([sys.executable, "-c", LONG_RUN, tmp_path], text=True, capture_output=True, check=True)
    files, kilobytes = map(int, done.stdout.split())
    assert files > 20 and kilobytes < 48 << 10


@torch.no_grad()
def test_the_verbs_scores_are_of_these_rows(model, tmp_path):
    """The exact score of a captured row is that of the state and id put in by hand."""
    ids = ids_of(3, 1, 8)
    with isologit.capture(model, tmp_path / "run.safetensors"):
        model(input_ids=ids)
    rows = _captured.read(tmp_path / "run.safetensors")
    weight = model.lm_head.weight.detach()
    got = isologit.score(rows["hidden_states"], weight, rows["token_ids"]).logprobs
    by_hand = isologit.score(states(model, ids)[0, :-1], weight, ids[0, 1:]).logprobs
    assert torch.equal(got[:-1], by_hand) and got[-1] == 0


@torch.no_grad()
def test_nothing_is_left_behind(model, tmp_path):
    before = len(model._forward_hooks), len(model.lm_head._forward_pre_hooks)
    with pytest.raises(ZeroDivisionError), isologit.capture(model, tmp_path / "run.safetensors"):
        raise ZeroDivisionError
    assert (len(model._forward_hooks), len(model.lm_head._forward_pre_hooks)) == before
