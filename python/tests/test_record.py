"""bench/record: every part runs and reaches the page, parts are kept, and the pages in docs/ are those of the data."""

import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tabulate")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def record():
    loader = importlib.machinery.SourceFileLoader("record", str(ROOT / "bench/record"))
    sys.path.insert(0, str(ROOT / "bench"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("record", loader))
    loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "bench"))


def run(*arguments):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, ROOT / "bench/record", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path})


def test_the_pages_in_docs_are_those_of_the_records(record, tmp_path):
    shutil.copytree(ROOT / "docs/performance", tmp_path / "performance")
    for page in (tmp_path / "performance").glob("*.md"):
        page.write_text("")
    shutil.copy(ROOT / "docs/performance.md", tmp_path)
    record.record_pages.write_all(tmp_path)
    made = [tmp_path / "performance.md", *(tmp_path / "performance").glob("*.md")]
    assert len(made) > 1
    for page in made:
        assert page.read_text() == (ROOT / "docs" / page.relative_to(tmp_path)).read_text(), (
            f"{page.name} is not what the records give: bench/record --pages makes it"
        )


@pytest.mark.parametrize(
    ("processor", "flags", "expected"),
    [
        ("AMD EPYC 7B13 64-Core Processor", ["avx2", "fma"], "epyc-7b13-avx2-2"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", ["avx512bw", "amx_int8"], "xeon-platinum-8481c-amx-2"),
        ("13th Gen Intel(R) Core(TM) i7-1360P", ["avx2", "avx_vnni"], "core-i7-1360p-avx2-2"),
        ("AMD EPYC (Zen 4)", ["avx2", "avx512bw"], "epyc-zen4-avx512-2"),
    ],
)
def test_a_page_is_named_by_the_processor(record, processor, flags, expected):
    assert record.slug({"processor": processor, "flags": flags, "processors": 2}) == expected


@pytest.mark.parametrize(
    ("name", "family", "model", "expected"),
    [
        ("AMD EPYC", 25, 1, "AMD EPYC (Zen 3)"),
        ("AMD EPYC", 25, 17, "AMD EPYC (Zen 4)"),
        ("AMD EPYC", 26, 2, "AMD EPYC (Zen 5)"),
        ("AMD EPYC", 99, 2, "AMD EPYC (family 99, model 2)"),
        ("AMD EPYC 7B13 64-Core Processor", 25, 1, "AMD EPYC 7B13 64-Core Processor"),
        ("Intel(R) Xeon(R) Processor", 6, 143, "Intel(R) Xeon(R) Processor"),
    ],
)
def test_a_processor_without_a_model_is_told_by_its_family(record, monkeypatch, name, family, model, expected):
    said = {"model name": name, "cpu family": str(family), "model": str(model)}
    monkeypatch.setattr(record, "cpuinfo", said.__getitem__)
    assert record.processor() == expected


def test_every_part_is_measured_kept_and_shown(record, tmp_path):
    pytest.importorskip("torch")
    if shutil.which("isologit", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") is None:
        pytest.skip("needs the command isologit")
    finished = run("--quick", "--output", tmp_path, "--name", "here")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""
    file = tmp_path / "performance/here.json"
    before = json.loads(file.read_text())
    assert list(before["parts"]) == list(record.record_pages.TITLES)
    page = (tmp_path / "performance/here.md").read_text()
    for name, part in before["parts"].items():
        assert f"part {list(before['parts']).index(name) + 1} of 8, {name}" in finished.stderr
        assert f"## {record.record_pages.TITLES[name]}\n" in page
        assert part["date"] and part["commit"] and part["versions"]["torch"]
    heads = before["parts"]["heads"]["runs"][0]["result"]["results"]
    assert {(line["name"], line["rows"]) for line in heads} >= {
        (name, rows) for name in ("isologit exact", "isologit fast", "torch bf16 pipeline") for rows in (1, 4)
    }
    assert all(line["ms"] > 0 for line in heads)
    assert "(performance/here.md)" in (tmp_path / "performance.md").read_text()

    finished = run("--quick", "--output", tmp_path, "--name", "here", "--only", "inactive")
    assert finished.returncode == 0, finished.stderr
    after = json.loads(file.read_text())
    assert after["parts"]["inactive"] != before["parts"]["inactive"]
    assert after["parts"] | {"inactive": 0} == before["parts"] | {"inactive": 0}

    file.write_text(json.dumps(before | {"machine": before["machine"] | {"processors": 1 << 20}}))
    finished = run("--quick", "--output", tmp_path, "--name", "here", "--only", "inactive")
    assert finished.returncode == 1
    assert "is of another machine; take another name, with --name" in finished.stderr


def test_tiny_shapes_are_no_record():
    finished = run("--quick")
    assert finished.returncode == 2
    assert "name another folder with --output" in finished.stderr
