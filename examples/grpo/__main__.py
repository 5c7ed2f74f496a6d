"""GRPO on examples/tiny-qwen3 by TRL with rollouts of vLLM, once for each kind of head and body; see README.md."""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import mean

from configuration import RUNS
from mismatch import Step
from rollouts import Engine
from trainer import Trainer
from transformers.utils import logging


def run_all(steps: int, seeds: int) -> dict[str, dict]:
    """Of each run the steps of each seed, and how much of it isologit has computed."""
    results = {}
    for name, run in RUNS.items():
        began = time.monotonic()
        engine, histories, forwards = Engine(run), [], 0
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                trainer = Trainer(engine, run, steps, seed, Path(folder))
                trainer.train()
            histories.append(trainer.history)
            forwards += trainer.forwards
        engine.stop()
        results[name] = {"histories": histories, "vllm_rows": engine.rows, "trl_forwards": forwards}
        print(f"{run.label}: {time.monotonic() - began:.0f} s", flush=True)
    return results


def table(results: dict[str, dict]) -> str:
    lines = [f"\n{'run':<22}     mean KL       body       head    outside  tokens that differ  reward: first, last"]
    for name, result in results.items():
        every: list[Step] = [step for history in result["histories"] for step in history]
        kl, body, head, outside = (mean(getattr(s, key) for s in every) for key in Step._fields[1:5])
        differ = f"{sum(step.different for step in every)} of {sum(step.tokens for step in every)}"
        first, last = (mean(history[i].reward for history in result["histories"]) for i in (0, -1))
        lines.append(
            f"{RUNS[name].label:<22}  {kl:10.2e} {body:10.2e} {head:10.2e} {100 * outside:8.2f} %  {differ:>18}"
            f"  {first:.3f}, {last:.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python examples/grpo", description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="of each run and seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many times each run is made")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured in each step")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a plot, .png or .svg")
    options = parser.parse_args()
    if options.out:
        from plot import plot  # before the runs: they take minutes, and matplotlib may not be there
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    results = run_all(options.steps, options.seeds)
    print(table(results))
    if options.json:
        steps = {
            name: result | {"histories": [[step._asdict() for step in one] for one in result["histories"]]}
            for name, result in results.items()
        }
        options.json.write_text(json.dumps(steps))
    if options.out:
        plot({name: result["histories"] for name, result in results.items()}, options.out)


if __name__ == "__main__":
    main()
