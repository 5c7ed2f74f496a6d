"""Ranks of a process group over gloo, forked from one process, and what each of them found."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def say(work: Callable[[int], Any], ranks: int) -> None:
    """The whole of a driver: work(rank) in each of them, and its results as a list in JSON on standard output."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(ranks):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
                    Path(f"{folder}/{rank}.json").write_text(json.dumps(work(rank)))
                    dist.barrier()
                    dist.destroy_process_group()
                    code = 0
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                os._exit(code)
            children.append(child)
        if any([os.waitpid(child, 0)[1] for child in children]):  # a list: all are waited for
            sys.exit("a rank failed")
        print(json.dumps([json.loads(Path(f"{folder}/{rank}.json").read_text()) for rank in range(ranks)]))


def told(driver: str) -> list[Any]:
    """What the ranks of a driver beside this file say."""
    file = Path(__file__).with_name(driver)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, file], capture_output=True, text=True, timeout=240, cwd=file.parent, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
