"""One picture of all runs: the mismatch of each step, in body and head, the ratios that it moves, and the reward."""

from pathlib import Path
from statistics import mean

import matplotlib
from configuration import RUNS
from mismatch import Step

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

BODY, HEAD = "#9db4c8", "#d1495b"
OF_RUNS = {"bf16": "#d1495b", "f32": "#edae49", "isologit": "#00798c", "isologit-model": "#1d3557"}


def plot(histories: dict[str, list[list[Step]]], path: Path) -> None:
    """histories: of each run, of each seed, its steps. Drawn is the mean over the seeds."""
    steps = {name: [_mean(at_step) for at_step in zip(*seeds, strict=True)] for name, seeds in histories.items()}
    figure = pyplot.figure(figsize=(11, 6.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.15, 1])
    bars = above.subplots(1, len(steps), sharey=True)
    for axes, (name, history) in zip(bars, steps.items(), strict=True):
        _bars(axes, RUNS[name].label, history)
    bars[0].set(ylabel="KL(rollout | trainer), 10⁻⁴ nats a token")
    bars[0].legend(loc="upper left", ncols=2, frameon=False)
    bars[0].set_ylim(0, 1.4 * max(1e4 * step.kl for history in steps.values() for step in history))
    above.suptitle("Mismatch between vLLM and the trainer, step by step")

    left, right = below.subplots(1, 2)
    for name, history in steps.items():
        style = {"color": OF_RUNS[name], "label": RUNS[name].label, "linewidth": 1.8}
        left.plot([100 * step.outside for step in history], **style)
        right.plot([step.reward for step in history], **style)
    left.set(title="Importance ratios outside [0.9, 1.1]", ylabel="% of tokens", xlabel="step")
    right.set(title=f"Reward, {_seeds(histories)}", xlabel="step")
    right.legend(loc="upper left", frameon=False)
    for axes in (*bars, left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.03)
    figure.savefig(path, dpi=90)


def _mean(steps: tuple[Step, ...]) -> Step:
    return Step(*(mean(values) for values in zip(*steps, strict=True)))


def _seeds(histories: dict[str, list[list[Step]]]) -> str:
    count = len(next(iter(histories.values())))
    return "one seed" if count == 1 else f"the mean of {count} seeds"


def _bars(axes: Axes, label: str, history: list[Step]) -> None:
    numbers = range(len(history))
    body, head = ([1e4 * getattr(step, key) for step in history] for key in ("body_kl", "head_kl"))
    axes.bar(numbers, body, width=1.0, color=BODY, label="body")
    axes.bar(numbers, head, width=1.0, bottom=body, color=HEAD, label="head")
    axes.set(title=label, xlabel="step")
    axes.text(0.5, 0.8, _said(history), transform=axes.transAxes, ha="center")


def _said(history: list[Step]) -> str:
    whole, head = (mean(getattr(step, key) for step in history) for key in ("kl", "head_kl"))
    if not any(step.kl for step in history):
        return "exactly 0 in every step"
    if not any(step.head_kl for step in history):
        return "head: exactly 0 in every step"
    share = 100 * head / whole
    return f"head: {share:.0f} %" if share > 0.1 else "head: under 0.1 %"
