"""isologit audit on real rollouts: a Transformers model that generates, batched, against itself as a trainer."""

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import isologit  # noqa: E402
from isologit import _captured  # noqa: E402
from isologit.audit import _attribution, _rollouts, _trainer, audit  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tiny-qwen3"
PROMPT, MADE = 6, 24


@pytest.fixture(scope="module")
def model():
    return transformers.AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """(prompt and made ids [4, 30], captured rows, their file): sampled in a batch, token by token."""
    path = tmp_path_factory.mktemp("run") / "captured.safetensors"
    torch.manual_seed(5)
    prompts = torch.randint(1, 4096, (4, PROMPT))
    with torch.no_grad(), isologit.capture(model, path):
        made = model.generate(prompts, max_new_tokens=MADE, min_new_tokens=MADE, do_sample=True)
        model.generate(made[:, :-1], max_new_tokens=1, do_sample=False)  # other rows, of no rollout
    return made[:, :-1], _captured.read(path), path


def columns(run, name):
    """[4, 23] of what was captured of each generated token."""
    _, rows, _ = run
    result = []
    for sequence in range(4):
        own = ((rows["sequence_ids"] == sequence) & (rows["token_ids"] != -100)).nonzero()[:, 0]
        result.append(rows[name][own[rows["positions"][own].argsort()]])
    return torch.stack(result)


def write(tmp_path, ids, logprobs, **more):
    path = tmp_path / "rollouts.jsonl"
    lines = [
        {"prompt_token_ids": own[:PROMPT].tolist(), "token_ids": own[PROMPT:].tolist(), "logprobs": of.tolist()} | more
        for own, of in zip(ids, logprobs, strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def logits_of(model, hidden, weight=None):
    weight = model.lm_head.weight if weight is None else weight
    return (hidden.float() @ weight.detach().float().T).double()


def logprobs_of(logits, ids):
    return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]


def test_parts_add_up_exactly_and_are_the_right_answers(model, run, tmp_path):
    ids, rows, path = run
    reported = columns(run, "logprobs")
    result = audit(model, write(tmp_path, ids, reported), captured=path)
    right = isologit.score(columns(run, "hidden_states"), model.lm_head.weight.detach(), ids[:, PROMPT:]).logprobs
    assert len(result["tokens"]) == reported.numel()
    for token, said, exact in zip(result["tokens"], reported.flatten(), right.flatten(), strict=True):
        exactly = {name: Fraction(text) for name, text in token["exactly"].items()}
        assert exactly["rollout_head"] + exactly["body"] + exactly["trainer_head"] == exactly["total"]
        assert exactly["total"] == Fraction(token["reported"]) - Fraction(token["trainer"])
        assert exactly["rollout_head"] == Fraction(float(said)) - Fraction(float(exact))
    sums = {name: Fraction(one["sum"]) for name, one in result["decomposition"].items()}
    assert sums.pop("total") == sum(sums.values()) and set(sums) == {"rollout_head", "body", "trainer_head"}
    assert result["mistakes"] == []
    left = {one["remedy"]: one["mean_abs"] for one in result["remedies"]}
    assert left["isologit head on both sides"] == pytest.approx(result["decomposition"]["body"]["mean_abs"], rel=1e-12)
    assert left["as it is"] == pytest.approx(result["measures"]["mean_abs"], rel=1e-12)


def test_sums_of_floats_would_not_do():
    """Wide-ranging parts: exact all the same."""
    r, a, b, t = (torch.tensor([one]) for one in (-1e-9, -3.3e-4, -17.3, -2.7e-7))
    (one,) = _attribution.parts(r, a, b, t)
    assert one.rollout_head + one.body + one.trainer_head == one.total == Fraction(float(r)) - Fraction(float(t))
    assert float(one.rollout_head) + float(one.body) + float(one.trainer_head) != float(one.total)


def test_without_captures_only_the_trainers_head_is_split_off(model, run, tmp_path):
    result = audit(model, write(tmp_path, run[0], columns(run, "logprobs")))
    assert set(result["decomposition"]) == {"unsplit", "trainer_head", "total"} and not result["captured"]
    sums = {name: Fraction(one["sum"]) for name, one in result["decomposition"].items()}
    assert sums["unsplit"] + sums["trainer_head"] == sums["total"]
    assert result["tokens"][0]["exactly"]["body"] is None and result["mistakes"] == []


@pytest.mark.parametrize("with_captures", [False, True])
@pytest.mark.parametrize(
    "planted",
    ["unshifted ids", "wrong temperature", "missing temperature", "processed logprobs", "processed by top-p"],
)
def test_planted_mistakes(model, run, tmp_path, planted, with_captures):
    ids, _, path = run
    hidden, logits, more = columns(run, "hidden_states"), None, {}
    scored = ids[:, PROMPT:]
    logits = logits_of(model, hidden)
    if planted == "unshifted ids":
        reported = logprobs_of(logits, ids[:, PROMPT - 1 : -1])
    elif planted == "wrong temperature":
        reported = logprobs_of(logits / 1.3, scored)
    elif planted == "missing temperature":
        reported, more = logprobs_of(logits, scored), {"temperature": 0.7}
    elif planted == "processed logprobs":
        ordered, _ = logits.log_softmax(-1).sort(-1, descending=True)
        kept = ordered[..., :100].exp().sum(-1).log()
        inside = logits.log_softmax(-1).gather(-1, scored[..., None])[..., 0] >= ordered[..., 99]
        assert inside.double().mean() > 0.3
        reported = logprobs_of(logits, scored) - kept
    if planted == "processed by top-p":
        planted, mass = "processed logprobs", logits.softmax(-1).sort(-1, descending=True)[0].cumsum(-1)
        reported = logprobs_of(logits, scored) - mass.masked_fill(mass < 0.9, 2).amin(-1).log()
    result = audit(model, write(tmp_path, ids, reported, **more), captured=path if with_captures else None)
    assert [one["mistake"] for one in result["mistakes"]] == [planted]


def test_states_before_the_norm(model, run, tmp_path):
    ids, rows, path = run
    taken = []
    hook = model.model.norm.register_forward_pre_hook(lambda _, args: taken.append(args[0][0]))
    with torch.no_grad():
        for own in ids:
            model(own[None])
    hook.remove()
    before = torch.stack(taken)[:, PROMPT - 1 : -1]
    wrong = tmp_path / "before.safetensors"
    writer = _captured.Writer(wrong, say=lambda _: None)
    for sequence in range(4):
        writer.add(
            before[sequence],
            token_ids=ids[sequence, PROMPT:],
            logprobs=columns(run, "logprobs")[sequence],
            positions=torch.arange(PROMPT - 1, len(ids[0]) - 1),
            sequence_ids=torch.full((len(before[0]),), sequence),
        )
    writer.close()
    rollouts = write(tmp_path, ids, columns(run, "logprobs"))
    assert [one["mistake"] for one in audit(model, rollouts, captured=wrong)["mistakes"]] == [
        "state before the final norm"
    ]
    reported = logprobs_of(logits_of(model, before), ids[:, PROMPT:])
    found = audit(model, write(tmp_path, ids, reported))["mistakes"]
    assert [one["mistake"] for one in found] == ["state before the final norm"]


def test_padded_vocabulary(run, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.bfloat16).eval()
    weight = model.lm_head.weight.detach()
    padded = torch.nn.Linear(128, 8192, bias=False, dtype=torch.bfloat16)
    padded.weight.data = torch.cat([weight, weight])
    model.set_output_embeddings(padded)
    logits = logits_of(model, columns(run, "hidden_states"))
    for size, mistakes in ((8192, ["padded vocabulary"]), (4096, [])):
        reported = logprobs_of(logits[..., :size], run[0][:, PROMPT:])
        found = audit(model, write(tmp_path, run[0], reported))["mistakes"]
        assert [one["mistake"] for one in found] == mistakes


@pytest.mark.parametrize("with_captures", [False, True])
def test_master_weights_against_a_copy(run, tmp_path, with_captures):
    model = transformers.AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.float32).eval()
    torch.manual_seed(7)
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(1 + (torch.rand_like(one) - 0.5) * 2**-8)
        masters = [one.data.clone() for one in model.parameters()]
        copy = transformers.AutoModelForCausalLM.from_config(model.config).eval()
        for one, of in zip(copy.parameters(), masters, strict=True):
            one.data = of.bfloat16().float()
        path, ids = tmp_path / "captured.safetensors", run[0]
        with isologit.capture(copy, path):
            copy(ids)
        reported = torch.stack([logprobs_of(copy(own[None]).logits[0].double()[:-1], own[1:]) for own in ids])
        captured = path if with_captures else None
        found = audit(model, write(tmp_path, ids, reported[:, PROMPT - 1 :]), captured=captured)["mistakes"]
        assert [one["mistake"] for one in found] == ["f32 master weights against a bf16 copy"]
        for one, of in zip(model.parameters(), masters, strict=True):
            assert torch.equal(one.data, of)
        # A copy that does not differ is no mistake.
        assert audit(copy, write(tmp_path, ids, reported[:, PROMPT - 1 :]), captured=captured)["mistakes"] == []


def test_the_whole_forward_pass_leaves_nothing(run, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.bfloat16).eval()
    result = audit(model, write(tmp_path, run[0], columns(run, "logprobs")), forward=True)
    left = {one["remedy"]: one["max_abs"] for one in result["remedies"]}
    assert left["isologit forward on both sides"] == 0 < left["as it is"]
    assert type(model.lm_head) is torch.nn.Linear


def test_captures_of_another_run_are_refused(model, run, tmp_path):
    other = run[0].clone()
    other[2, -1] = (other[2, -1] + 1) % 4096
    with pytest.raises(ValueError, match="rollout 3 is not among"):
        audit(model, write(tmp_path, other, columns(run, "logprobs")), captured=run[2])


FORMS = {
    "vllm": {
        "prompt_token_ids": [1, 2],
        "outputs": [
            {
                "token_ids": [3, 4],
                "logprobs": [{"3": {"logprob": -1.5}, "9": {"logprob": -0.1}}, {"4": {"logprob": -2.0}}],
            }
        ],
    },
    "openai": {
        "prompt_token_ids": [1, 2],
        "choices": [
            {
                "logprobs": {
                    "content": [{"token": "token_id:3", "logprob": -1.5}, {"token": "token_id:4", "logprob": -2.0}]
                }
            }
        ],
    },
    "completions": {
        "choices": [{"prompt_token_ids": [1, 2], "token_ids": [3, 4], "logprobs": {"token_logprobs": [-1.5, -2.0]}}]
    },
    "prime-rl": {
        "prompt_ids": [1, 2],
        "completion_ids": [3, 4],
        "completion_logprobs": [-1.5, -2.0],
        "completion_mask": [1, 1],
    },
    "verl": {
        "prompts": [0, 1, 2],
        "responses": [3, 4, 0],
        "rollout_log_probs": [-1.5, -2.0, 0.0],
        "response_mask": [1, 1, 0],
        "attention_mask": [0, 1, 1, 1, 1, 0],
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_forms(tmp_path, form, kind):
    path = tmp_path / f"rollouts.{kind}"
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([FORMS[form]] * 2), path)
    else:
        path.write_text("\n".join([json.dumps(FORMS[form])] * 2))
    one, other = _rollouts.read(path)
    assert one == other
    assert (one.prompt, one.generated, one.logprobs) == ([1, 2], [3, 4], [-1.5, -2.0])


def test_the_command_and_its_report(run, tmp_path, capsys):
    """The page is parsed, needs nothing from elsewhere, and its pictures are decoded and not blank."""
    pytest.importorskip("matplotlib")
    import base64
    import io
    from html.parser import HTMLParser

    import matplotlib.image

    from isologit.audit.__main__ import main

    rollouts, page = write(tmp_path, run[0], columns(run, "logprobs")), tmp_path / "report.html"
    main([str(EXAMPLE), "--rollouts", str(rollouts), "--captured", str(run[2]), "--report", str(page)])
    said = capsys.readouterr().out
    assert "body difference" in said and "no mistake that would explain the data was found" in said
    sources, opened = [], []

    class Page(HTMLParser):
        def handle_starttag(self, tag, attributes):
            sources.extend(value for name, value in attributes if name in ("src", "href"))
            if tag not in ("meta", "img"):
                opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Page().feed(page.read_text())
    assert opened == [] and len(sources) == 6
    for source in sources:
        head, content = source.split(",")
        assert head == "data:image/png;base64"
        picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(content)))
        assert picture.shape[0] > 300 and picture.shape[1] > 600 and picture.std() > 0.05
    main([str(EXAMPLE), "--rollouts", str(rollouts), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert len(result["tokens"]) == 4 * (MADE - 1) and result["worst"][0]["token"]


def test_the_measures_are_told(model, run, tmp_path, capsys):
    """In words and in JSON, beside what the definitions make of both columns. The rollouts' are moved apart and their
    states are those of other rows, so that none of the measures is 0."""
    from safetensors.torch import save_file

    from isologit.audit.__main__ import main

    rolled = {"hidden_states": run[1]["hidden_states"].roll(1, 0)}
    run = (run[0], run[1] | rolled, tmp_path / "rolled.safetensors")
    save_file(run[1], run[2])
    own = columns(run, "logprobs")
    apart = own - 0.3 * torch.rand(own.shape, generator=torch.Generator().manual_seed(3))
    asked = [str(EXAMPLE), "--rollouts", str(write(tmp_path, run[0], apart)), "--captured", str(run[2])]
    main([*asked, "--json"])
    result = json.loads(capsys.readouterr().out)
    d = [one["reported"] - one["trainer"] for one in result["tokens"]]
    expected = {
        "k1": math.fsum(d) / len(d),
        "k2": math.fsum(x * x / 2 for x in d) / len(d),
        "k3": math.fsum(math.exp(-x) - 1 + x for x in d) / len(d),
        "ratios_outside_0.9_1.1": sum(not 0.9 <= math.exp(-x) <= 1.1 for x in d) / len(d),
        "ratios_outside_0.8_1.2": sum(not 0.8 <= math.exp(-x) <= 1.2 for x in d) / len(d),
    }
    for name, value in expected.items():
        assert result["measures"][name] == pytest.approx(value, rel=1e-9) and abs(value) > 0.01, name
    with torch.no_grad():
        trainer = model(run[0], output_hidden_states=True).hidden_states[-1][:, PROMPT - 1 : -1]
    greedy = [logits_of(model, states).argmax(-1) for states in (columns(run, "hidden_states"), trainer)]
    flips = int((greedy[0] != greedy[1]).sum())
    assert result["greedy_flips"] == flips > 0
    main(asked)
    said = capsys.readouterr().out
    k = ", ".join(f"{name} {expected[name]:.3g}" for name in ("k1", "k2", "k3"))
    outside = ", ".join(
        f"{edges} {100 * expected[name]:.3g} %"
        for edges, name in (("[0.9, 1.1]", "ratios_outside_0.9_1.1"), ("[0.8, 1.2]", "ratios_outside_0.8_1.2"))
    )
    assert f"  KL of the mismatch     {k}\n  ratios outside         {outside}\n" in said
    assert f"  greedy flips           {flips} of {len(d)}\n" in said
    main(asked[:3])
    assert "greedy flips" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["no-such-model", "no/such-model", "no/such/model"])
def test_a_model_that_is_not_here_is_not_looked_for_elsewhere(run, tmp_path, name):
    from isologit.audit.__main__ import main

    rollouts = write(tmp_path, run[0], columns(run, "logprobs"))
    with pytest.raises(SystemExit, match=f'no directory "{name}", and no such model in the .*: hf download {name}$'):
        main([name, "--rollouts", str(rollouts)])


def test_a_model_in_the_cache(run, tmp_path, monkeypatch, capsys):
    """By its id, as `hf download` leaves it, and without a network."""
    import socket

    from huggingface_hub import constants

    from isologit.audit.__main__ import main

    def no_network(*args, **kwargs):
        raise AssertionError(f"{args} was looked for")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    folder = tmp_path / "models--an--example"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / ("0" * 40)).symlink_to(EXAMPLE)
    main(["an/example", "--rollouts", str(write(tmp_path, run[0], columns(run, "logprobs"))), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["model"] == "an/example" and result["worst"][0]["token"]


def test_logprobs_that_are_not_finite_are_refused(model, run, tmp_path):
    reported = columns(run, "logprobs").clone()
    reported[1, 4] = -torch.inf
    with pytest.raises(ValueError, match=f"rollout 2, position {PROMPT + 4}: the reported logprob is -inf"):
        audit(model, write(tmp_path, run[0], reported))


def test_the_capture_command_names_the_file_to_what_it_runs(tmp_path):
    import os
    import subprocess
    import sys

    package = os.environ | {"PYTHONPATH": str(Path(isologit.__file__).resolve().parents[1])}
    start = "import sys; from isologit._command import main; sys.argv[0] = 'isologit'; main()"
    shown = "import os; print(os.environ['ISOLOGIT_CAPTURE'])"
    command = [sys.executable, "-c", start, "capture", "run.safetensors", "--", sys.executable, "-c", shown]
    done = subprocess.run(command, cwd=tmp_path, env=package, text=True, capture_output=True, check=True)
    assert done.stdout == f"{tmp_path / 'run.safetensors'}\n" and str(tmp_path / "run.safetensors") in done.stderr


@pytest.mark.parametrize("order", ["softcap_first", "scale_first"])
def test_the_usual_head_scales_and_caps_in_the_models_order(order):
    """Against the right answer; in the other order these are off by tenths."""
    generator = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(n, 16, generator=generator) for n in (9, 30))
    transforms = {"softcap": 2.0, "scale": 3.0, "transform_order": order}
    head = _trainer.Head(weight, None, weight, transforms)
    ids, t = torch.arange(9), torch.ones(9)
    assert (head.usual(hidden, ids, t, torch.float32) - head.exact(hidden, ids, t)).abs().max() < 1e-4
    right = isologit.logits(hidden, weight, dtype=torch.float32, **transforms)
    assert (head.logits(hidden) - right).abs().max() < 1e-4
