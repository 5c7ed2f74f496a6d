"""Where the verbs in Python write: bad destinations are told before anything is computed, and no input is replaced."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from isologit import _outputs

HEADS = "import numpy as np\ndef head(hidden, weight): return hidden @ weight.T\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model's, inputs, and what may not be replaced."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    Path("blobs").write_text("weights")
    Path("model/model.safetensors").symlink_to("../blobs")
    Path("rollouts.jsonl").write_text("{}")
    Path("heads.py").write_text(HEADS)
    Path("read-only").write_text("precious")
    Path("read-only").chmod(0o444)
    os.mkfifo("pipe")
    for name, target in {"to-input": "rollouts.jsonl", "loop": "loop", "to-device": "/dev/null", "new": "made"}.items():
        Path(name).symlink_to(target)
    os.link("rollouts.jsonl", "hard")
    return tmp_path


BAD = {
    "": "it names no file",
    ".": "it names no file",
    "model": "it is a directory",
    "new/": "it names no file",
    "n" * 256: "File name too long",
    "nowhere/x": "cannot write to folder",
    "read-only/x": "Not a directory",
    "read-only": "it is read-only",
    "pipe": "not a regular file",
    "to-device": "not a regular file",
    "/dev/null": "not a regular file",
    "loop": "Too many levels of symbolic links",
    "rollouts.jsonl": "it is an input of this run",
    "to-input": "it is an input of this run",
    "hard": "it is an input of this run",
    "model/config.json": "it is in the model's folder 'model'",
    "model/new": "it is in the model's folder 'model'",
    "blobs": "it is in the model's folder 'model'",
}


def state(folder):
    return {
        str(path): (path.lstat().st_ino, path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("path", BAD)
def test_bad_destinations_are_refused_and_nothing_is_changed(place, path):
    before = state(place)
    with pytest.raises(ValueError, match=r"^--report: cannot write ") as told:
        _outputs.check_destination("--report", path, ["rollouts.jsonl"], "model")
    assert BAD[path] in str(told.value) and state(place) == before


def test_what_is_replaced_keeps_its_mode_and_links_are_followed(place):
    old = place / "made"
    for mode in (0o600, 0o640):
        old.write_text("old")
        old.chmod(mode)
        with _outputs.written(_outputs.check_destination("--report", "new"), "über"):
            assert old.read_text() == "old"
        assert old.read_text(encoding="utf-8") == "über" and stat.S_IMODE(old.stat().st_mode) == mode
    assert Path("new").is_symlink()
    old.unlink()
    with _outputs.written(_outputs.check_destination("--report", "new"), "x"):
        pass
    umask = os.umask(0)
    os.umask(umask)
    assert old.read_text() == "x" and stat.S_IMODE(old.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("name", ["made", "read-only"])
def test_what_fails_meanwhile_leaves_what_was(place, name):
    before = state(place)
    with pytest.raises(ZeroDivisionError), _outputs.written(place / name, "x"):
        raise ZeroDivisionError
    assert state(place) == before


def run(place, *arguments, **popen):
    command = [sys.executable, "-m", "isologit", "verify", "--arrays", "numpy", "--dtype", "float32"]
    command += ["--shape", "8,8,2", "--properties", "slices", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True, check=False, **popen)


def test_a_verdict_is_written_once_it_was_told(place):
    """Standard output that takes nothing, or a file that does not fit: no file, and an exit status that is not 0."""
    asked = ("--head", "heads:head", "--junit", "verdict.xml")
    before = set(state(place))
    with open("/dev/full", "w") as full:
        done = run(place, *asked, stdout=full)
    assert done.returncode == 1 and done.stderr == (
        "isologit: cannot write to standard output: No space left on device; nothing was written\n"
    )
    done = run(place, *asked, preexec_fn=lambda: os.close(1))
    assert done.returncode == 1 and "cannot write to standard output: Bad file descriptor" in done.stderr
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))"
    done = run(place, *asked, stdout=subprocess.PIPE, preexec_fn=lambda: exec(limit))
    assert done.returncode == 1 and "File too large" in done.stderr and done.stdout == "", done.stderr
    done = run(place, "--head", "heads:head", "--junit", "heads.py", stdout=subprocess.PIPE)
    assert done.returncode == 1 and "heads.py': it is an input of this run" in done.stderr
    assert {one for one in state(place) if "__pycache__" not in one} == before
    assert run(place, *asked, stdout=subprocess.PIPE).returncode in (0, 1) and Path("verdict.xml").exists()


@pytest.fixture
def audit():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("matplotlib")
    from isologit.audit.__main__ import main

    return main


@pytest.mark.parametrize(
    "options, words",
    [
        (["--report", "rollouts.jsonl"], "--report: cannot write 'rollouts.jsonl': it is an input"),
        (["--report", "model/x.html"], "--report: cannot write 'model/x.html': it is in the model's folder"),
        (["--report", "nowhere/x.html"], "--report: cannot write to folder "),
        (["--captured", "rollouts.jsonl"], "rollouts.jsonl: Error while deserializing header"),
        (["--captured", "nowhere"], "nowhere: no such file; expected one that isologit.capture wrote"),
        (["--device", "abacus"], "--device: 'abacus' is not usable: "),
        (["--rollouts", "nowhere"], "nowhere: No such file or directory"),
        ([], "model: Transformers does not load it: "),
    ],
)
def test_an_audit_that_cannot_be_is_told_before_the_model_is_loaded(place, audit, options, words, monkeypatch):
    rollout = {"prompt_token_ids": [1], "token_ids": [2], "logprobs": [-1.0]}
    (place / "rollouts.jsonl").write_text(json.dumps(rollout))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = state(place)
    with pytest.raises(SystemExit) as told:
        audit(["model", "--rollouts", "rollouts.jsonl", *options])
    assert str(told.value).startswith(f"isologit: {words}") and "\n" not in str(told.value).rstrip()
    assert state(place) == before


@pytest.mark.parametrize("temperature", ["nan", "0", "inf", "-1", "warm"])
def test_a_wrong_temperature_is_a_wrong_command_line(place, audit, temperature, capsys):
    with pytest.raises(SystemExit) as told:
        audit(["model", "--rollouts", "nowhere", f"--temperature={temperature}"])
    assert told.value.code == 2 and "argument --temperature: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "record, words",
    [
        (b"\xff\xfe", "expected text: JSON lines or JSON"),
        ([1, 2], "record 1: int; expected a vLLM output"),
        ({"prompt_token_ids": [1], "token_ids": [2.5], "logprobs": [-1.0]}, "the token id 2.5; expected an integer"),
        ({"prompt_token_ids": [1], "token_ids": ["2"], "logprobs": [-1.0]}, "the token id '2'; expected an integer"),
        ({"prompt_token_ids": 1, "token_ids": [2], "logprobs": [-1.0]}, "TypeError: 'int' object is not iterable"),
        ({"prompt_token_ids": [1], "token_ids": [2], "logprobs": ["-1"]}, "the logprob '-1'; expected a number"),
        ({"prompt_token_ids": [1], "token_ids": [2], "logprobs": [[-1.0]]}, "the logprob [-1.0]; expected a number"),
        ({"prompt_token_ids": [1], "token_ids": [2, 3], "logprobs": [-1.0]}, "1 logprobs of 2 tokens"),
        (
            {"prompt_ids": [1], "completion_ids": [2], "completion_logprobs": [-1.0], "completion_mask": [1, 1]},
            "a mask of the response of 2; expected one of each token, 1",
        ),
        (
            {"prompts": [1], "responses": [2], "rollout_log_probs": [-1.0], "attention_mask": [1]},
            "an attention_mask of 1; expected one of each token, 2",
        ),
        ({"trajectory": [1]}, "AttributeError: 'int' object has no attribute 'get'"),
        ({"choices": [None], "prompt_token_ids": [1]}, "AttributeError: "),
        ({"prompt_token_ids": [1], "token_ids": [2], "logprobs": [-1.0], "temperature": -1}, "temperature is -1"),
        ({"prompt_token_ids": [1], "token_ids": [2], "logprobs": [-1.0], "temperature": "hot"}, "temperature is 'hot'"),
    ],
)
def test_rollouts_that_are_none_are_refused_by_their_place(tmp_path, record, words):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from isologit.audit import _rollouts

    path = tmp_path / "rollouts.json"
    path.write_bytes(record if isinstance(record, bytes) else json.dumps(record).encode())
    with pytest.raises(ValueError) as told:
        _rollouts.read(path)
    assert str(told.value).startswith(str(path)) and words in str(told.value)


def test_where_rows_are_not_captured(place):
    for path, words in {
        "model/captured.safetensors": "is in a model's folder",
        "model": "is a directory",
        "read-only/x": "cannot write to folder",
    }.items():
        with pytest.raises(ValueError, match=words):
            _outputs.check_captured(path)
        command = [sys.executable, "-c", "import sys; from isologit._command import main; main()", "capture", path]
        done = subprocess.run([*command, "--", "touch", "ran"], cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and words in done.stderr and not Path("ran").exists()
    without = subprocess.run(command, capture_output=True, text=True, check=False)
    assert without.returncode == 2 and without.stderr.startswith("usage: isologit capture FILE -- COMMAND")
    _outputs.check_captured("a/b/c.safetensors")
    assert not Path("a").exists()
