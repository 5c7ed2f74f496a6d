"""The rollouts of examples/audit: what the pages say of them; and the report in a real browser, where its pictures are
drawn, it says no error and asks for nothing else."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from isologit.audit import _report, audit  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed: scripts/install-packages test")

# What the page is, as the browser has it, written where --dump-dom shows it. Of each picture: how many colours it has.
PROBE = """<script>
const errors = [];
addEventListener('error', event => errors.push(event.message || 'a resource'), true);
addEventListener('load', () => {
  const pictures = [...document.images].map(image => {
    if (!image.complete || !image.naturalWidth) return 0;
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    const pixels = new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    return new Set(pixels).size;
  });
  const asked = performance.getEntriesByType('resource').map(one => one.name).filter(name => !name.startsWith('data:'));
  const told = document.createElement('pre');
  told.id = 'told';
  told.textContent = btoa(JSON.stringify({pictures, errors, asked}));
  document.body.append(told);
});
</script>"""


def browse(page, *options):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--virtual-time-budget=10000", "--enable-logging=stderr", "--force-device-scale-factor=1"]
    done = subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def look(page, tmp_path):
    """What PROBE tells, and what the page said on the console."""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("<head>", "<head>" + PROBE, 1))
    dom, said = browse(probed, "--dump-dom")
    found = re.search(r'<pre id="told">([^<]*)</pre>', dom)
    assert found, dom[-2000:]
    return json.loads(base64.b64decode(found[1])) | {"said": said}


@pytest.fixture(scope="module")
def result():
    model = transformers.AutoModelForCausalLM.from_pretrained(EXAMPLES / "tiny-qwen3", dtype=torch.bfloat16).eval()
    folder = EXAMPLES / "audit"
    return audit(model, folder / "rollouts.jsonl", captured=folder / "captured.safetensors")


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "audit.html"
    path.write_text(_report.page(result), encoding="utf-8")
    return path


def test_the_pages_figures(result):
    """Of README.md and docs/audit.md. The trainer's bf16 is torch's, which differs by processor."""
    parts, remedies = result["decomposition"], {one["remedy"]: one for one in result["remedies"]}
    shown = re.findall(r"(\d\.\d)·10⁻³", (EXAMPLES.parent / "README.md").read_text())
    measured = [remedies["as it is"]["mean_abs"], parts["rollout_head"]["mean_abs"], parts["trainer_head"]["mean_abs"]]
    measured += [parts["body"]["mean_abs"], remedies["f32 logits on both sides"]["mean_abs"]]
    assert [float(one) for one in shown[:5]] == pytest.approx([1e3 * one for one in measured], rel=0.1)
    assert remedies["isologit head on both sides"]["mean_abs"] == pytest.approx(measured[-1], rel=1e-3)
    page = (EXAMPLES.parent / "docs/audit.md").read_text()
    for name, remedy in remedies.items():
        row = re.search(rf"^  {name} +(\S+) +(\S+) +(\S+)$", page, flags=re.MULTILINE)
        of = [remedy[key] for key in ("mean_abs", "rms")]
        assert [float(row[1]), float(row[2])] == pytest.approx(of, rel=0.1), name
    for name, part in {**parts, "reported - trainer": parts["total"]}.items():
        name = _report.PARTS.get(name, name)
        if row := re.search(rf"^  {name} +(\S+) +(\S+) +(\S+)$", page, flags=re.MULTILINE):
            assert float(row[2]) == pytest.approx(part["mean_abs"], rel=0.1), name


def test_flips_and_token_ids_are_on_the_page(result, page):
    text = page.read_text()
    assert f"<td>greedy_flips</td><td>{result['greedy_flips']}</td>" in text
    table = text.split("Token ids whose differences add up to most")[1]
    ids = [int(one) for one in re.findall(r"<tr><td>(\d+)</td>", table)]
    assert ids == [one["token_id"] for one in result["by_token"]] and len(ids) == 20


@pytest.mark.parametrize("title", ["Differences by probability", "Differences by position"])
def test_a_picture_of_sizes_holds_all_points_and_little_else(result, title):
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    _report._PICTURES[title](ax, result, result["tokens"])
    low, high = ax.get_ylim()
    sizes = [abs(token["difference"]) for token in result["tokens"]]
    assert 0 <= low <= min(sizes) and max(sizes) <= high < 10 * max(sizes)


@in_browser
def test_pictures_are_drawn_and_nothing_is_asked_for(page, tmp_path):
    told = look(page, tmp_path)
    assert len(told["pictures"]) == len(_report._PICTURES) and min(told["pictures"]) > 50
    assert told["errors"] == [] and told["asked"] == [] and told["said"] == []


@in_browser
def test_the_browser_would_tell(page, tmp_path):
    """A picture that is broken, one that is blank, one from a network, and a script that fails."""
    broken = tmp_path / "broken.html"
    text = page.read_text()
    blank = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
    text = re.sub(r'src="data:image/png;base64,.{40}', 'src="data:image/png;base64,', text, count=1)
    text = text.replace("</body>", f'<img src="{blank}"><img src="http://nowhere.example/x.png">'
                        "<script>nothing()</script></body>")
    broken.write_text(text)
    told = look(broken, tmp_path)
    assert told["pictures"][0] == 0 and told["pictures"][-2:] == [1, 0]
    assert any("nothing is not defined" in one for one in told["errors"])
    assert told["asked"] == ["http://nowhere.example/x.png"] and told["said"] != []


@in_browser
def test_it_can_be_looked_at(page, tmp_path):
    picture = tmp_path / "audit.png"
    browse(page, f"--screenshot={picture}", "--window-size=1000,1400")
    from matplotlib import image

    pixels = image.imread(picture)
    assert pixels.shape[:2] == (1400, 1000) and 0.02 < (pixels[..., :3].mean(-1) < 0.9).mean() < 0.6
