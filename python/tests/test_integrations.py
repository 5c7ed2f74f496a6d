"""What integrations say of the packages that they are for: names, versions, what is in force, what is refused."""

import importlib
import inspect
import pathlib
import subprocess
import sys
import types

import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist  # noqa: E402
from adapters import BARE, VOCAB, installed, package, recorded  # noqa: E402

from isologit import integrations  # noqa: E402
from isologit.integrations import _adapter, _table  # noqa: E402

RECORDED = [key for key, package in _table.PACKAGES.items() if not package.on_pypi]


@pytest.mark.parametrize("key", BARE)
def test_signatures_and_version_are_those_of_the_table(key):
    with package(key):
        _adapter.check(_table.PACKAGES[key])
        assert _adapter.version(_table.PACKAGES[key]) == _table.PACKAGES[key].tested


def test_signatures_that_are_imitated_are_those_of_the_table():
    pytest.importorskip("transformers")
    _adapter.check(_table.TRANSFORMERS)


def test_what_moved_is_named(monkeypatch):
    with package("openrlhf"):
        table = _table.PACKAGES["openrlhf"]
        name = "openrlhf.models.utils:compute_entropy"
        for names, message in (
            ({name: "(logits, mask)"}, r"openrlhf .*: .*:compute_entropy takes \(logits\); expected \(logits, mask\)"),
            ({"openrlhf.models.utils:gone": "()"}, "openrlhf.models.utils:gone has moved: .*made for 0.11.2"),
        ):
            monkeypatch.setitem(_table.PACKAGES, "openrlhf", table._replace(names=names))
            with pytest.raises(NotImplementedError, match=message):
                integrations.openrlhf.install()
        monkeypatch.setitem(_table.PACKAGES, "openrlhf", table._replace(names={"openrlhf.nowhere:gone": "()"}))
        with pytest.raises(ImportError, match="openrlhf.nowhere:gone cannot be imported"):
            integrations.openrlhf.install()


def test_modules_that_have_imported_a_name_have_ours():
    with package("openrlhf"):
        utils = importlib.import_module("openrlhf.models.utils")
        importer = types.ModuleType("openrlhf.importer")
        importer.compute = former = utils.compute_entropy
        sys.modules["openrlhf.importer"] = importer
        with installed(integrations.openrlhf):
            assert importer.compute is utils.compute_entropy is not former
            importer.compute(torch.zeros(1, 4))
            later = types.ModuleType("openrlhf.later")
            later.compute = utils.compute_entropy
            sys.modules["openrlhf.later"] = later
        assert later.compute is importer.compute is utils.compute_entropy is former


def test_a_split_vocabulary_is_refused(group, monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda *_: 2)
    z, ids = torch.zeros(8, VOCAB), torch.arange(8)
    hidden, weight = torch.zeros(8, 16), torch.zeros(VOCAB, 16)
    of_hidden = integrations.nemo_rl.from_parallel_hidden_states_to_logprobs
    called = (hidden[:, None], weight, True, ids[None], 0, VOCAB)
    with pytest.raises(NotImplementedError, match="tp_group has 2 ranks; expected one"):
        integrations.slime.calculate_log_probs_and_entropy(z, ids, group, log_prob_keep_mask=z > 0)
    with pytest.raises(NotImplementedError, match="cp_group has 2 ranks; expected one"):
        of_hidden(*called, group, cp_group=group)
    with pytest.raises(
        NotImplementedError, match="hidden states of 8 positions on each of 2 ranks, and 8 ids; expected"
    ):
        of_hidden(*called, group)
    with pytest.raises(NotImplementedError, match="hidden states of several ranks that Megatron has not gathered"):
        integrations.verl.linear_cross_entropy(hidden.requires_grad_(), weight, ids, 1.0, "none", group)


def test_the_page_has_the_table():
    assert f"\n{_table.markdown()}\n" in pathlib.Path("docs/integrations/index.md").read_text()


def test_the_engines_are_tested_in_the_version_of_the_table():
    pinned = pathlib.Path("scripts/test_engines").read_text()
    for key in ("vllm", "sglang", "trl"):
        package = _table.PACKAGES[key]
        assert f"{package.distribution}=={package.tested}\n" in pinned
    for package in _table.OTHERS:
        assert f'"{package.distribution}=={package.tested}"' in pathlib.Path("scripts/test").read_text()


def rows_of_status():
    return {row.name: row for row in integrations.status()}


def test_status():
    assert list(rows_of_status()) == list(_table.PACKAGES)
    row = rows_of_status()["roll"]
    assert not row.in_force and row.why_not == "alibaba/ROLL is not installed" and row.version == ""
    with recorded("roll"):
        assert rows_of_status()["roll"].why_not == "not asked for in this process: integrations.roll.install()"
        integrations.roll.install()
        assert rows_of_status()["roll"][-2:] == (True, "")
        integrations.roll.uninstall()
        assert not rows_of_status()["roll"].in_force


def test_the_command_tells_the_status():
    def told(*arguments):
        command = [sys.executable, "-m", "isologit", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    lines = told("integrations").splitlines()
    assert len(lines) == 1 + len(_table.PACKAGES) and lines[0].split()[:2] == ["package", "installed"]
    for line, row in zip(lines[1:], integrations.status(), strict=True):
        assert line.split()[:2] == [row.name, row.version or "-"] and " no  " in line
    assert told("--version").startswith("isologit ")


@pytest.mark.parametrize("key", RECORDED)
def test_recorded_signatures_are_those_of_the_adapters(key):
    """Every argument that the package passes is one that the function takes."""
    adapter = getattr(integrations, key)
    with recorded(key):
        for where, (_, name, former) in _adapter.check(_table.PACKAGES[key]).items():
            ours = getattr(adapter, name, None)
            if ours is not None:
                takes = list(inspect.signature(ours).parameters.values())
                told = list(inspect.signature(former).parameters.values())
                assert [(p.name, p.default) for p in takes] == [(p.name, p.default) for p in told], where
