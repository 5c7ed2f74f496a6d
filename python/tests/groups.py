"""usage: groups.py [SCENARIO...]

isologit.parallel over gloo: forks ranks, and prints as JSON what each of them found.
"""

import datetime
import json
import os
import sys
import tempfile
import time

import group_failures
import group_results
import torch.distributed as dist

SCENARIOS = vars(group_results) | vars(group_failures)
SIZES = {"results": 7, "bytes_of_rows": 2}  # of others: 3
TIMEOUT = {"lags_too_long": 2, "killed": 3, "killed_within": 3, "killed_in_backward": 3}


def run(scenario):
    """What each rank says; None of one that was killed."""
    size = SIZES.get(scenario, 3)
    group_results.by_one_process()
    if scenario == "results":
        group_results.by_the_contract()
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(size):
            if os.fork() == 0:
                told = {}
                try:
                    dist.init_process_group(
                        "gloo",
                        init_method=f"file://{folder}/store",
                        rank=rank,
                        world_size=size,
                        timeout=datetime.timedelta(seconds=TIMEOUT.get(scenario, 60)),
                    )
                    dist.barrier()
                    began = time.monotonic()
                    try:
                        told["returned"] = SCENARIOS[scenario](rank, size)
                    finally:
                        told["seconds"] = time.monotonic() - began
                except BaseException as error:
                    told["error"] = f"{type(error).__name__}: {error}"
                with open(f"{folder}/{rank}.json", "w") as file:
                    json.dump(told, file, default=str)
                os._exit(0)
        for _ in range(size):
            os.wait()
        found = []
        for rank in range(size):
            path = f"{folder}/{rank}.json"
            found.append(None)
            if os.path.exists(path):
                with open(path) as file:
                    found[-1] = json.load(file)
    return found


if __name__ == "__main__":
    print(json.dumps({scenario: run(scenario) for scenario in sys.argv[1:]}))
