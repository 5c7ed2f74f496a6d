"""usage: failing_groups.py

isologit.parallel over gloo through relays, where something goes wrong: of each scenario and number of ranks, prints as
JSON what every rank found, after how many seconds, and how its process ended."""

import collections
import datetime
import json
import os
import signal
import sys
import tempfile
import time

import relay
import torch.distributed as dist
from test_score import VOCAB, head

import isologit
from isologit import parallel

SIZES = (2, 3, 4)
TIMEOUT = 2  # of scenarios in which it passes
HIDDEN, WEIGHT, IDS, _ = head(6)


def killed(rank, relays):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def late(rank, relays):
    time.sleep(0.5 * (rank == 1))


def too_late(rank, relays):
    time.sleep(2.5 * TIMEOUT * (rank == 1))


def set_network(how):
    """Of rank 0: the others connect to it."""

    def fault(rank, relays):
        for one in relays if rank == 0 else []:
            one.how = how
            if how == "drop":
                one.close()

    return fault


FAULTS = {
    "killed": killed,
    "late": late,
    "too late": too_late,
    "delayed": set_network("delay"),
    "stalled": set_network("stall"),
    "dropped": set_network("drop"),
}
EXCHANGE = "could not exchange message "
SAID = {  # by every rank that lives
    "killed": EXCHANGE,
    "late": "right",
    "too late": EXCHANGE,
    "delayed": "right",
    "stalled": EXCHANGE,
    "dropped": EXCHANGE,
}
SAID |= {f"{fault} within": said for fault, said in SAID.items()}  # the ranks have agreed on what is called
SAID |= {
    "another shape": "expected [..., H] and [v, H]",
    "another kernel": "'portable_fast' on rank 0; expected all ranks to make the same call with the same arguments",
    "overlap": "expected every id of the vocabulary [0, 30) once",
}
MEANING = {
    "killed": "a rank is killed",
    "late": "a rank is late, by less than the time-out",
    "too late": "a rank is late, by more",
    "delayed": "the network delays what is sent",
    "stalled": "all connections stall",
    "dropped": "all connections break",
    "another shape": "a rank has a weight of another H",
    "another kernel": "a rank has another kernel of `fast`",
    "overlap": "ranges of ids overlap",
}


def call(scenario, rank, size, relays):
    first, last = VOCAB * rank // size, VOCAB * (rank + 1) // size
    width, options = WEIGHT.shape[1], {}
    if scenario == "another shape" and rank == 1:
        width -= 1
    if scenario == "another kernel":
        options = {"arithmetic": "fast", "kernel": "" if rank == 1 else "portable_fast"}
    if scenario == "overlap" and rank == 1:
        first -= 1
    run, fault = isologit._score.run, FAULTS.get(scenario.removesuffix(" within"))

    def within(*arguments):
        fault(rank, relays)
        return run(*arguments)

    if scenario.endswith(" within"):
        isologit._score.run = within
    elif fault:
        fault(rank, relays)
    return parallel.linear_logprobs(
        HIDDEN, WEIGHT[first:last, :width], IDS, first_id=first, vocab_size=VOCAB, **options
    ).logprobs


def meet(folder, what, rank, ranks):
    """Waits until `ranks` have come here, by files: a rank whose process ends takes its relay with it."""
    open(f"{folder}/{rank}.{what}", "w").close()
    while not all(os.path.exists(f"{folder}/{one}.{what}") for one in ranks):
        time.sleep(0.01)


def work(scenario, rank, size, folder, expected):
    told = {}
    waits = scenario.startswith(("killed", "too late", "stalled", "dropped"))
    timeout = datetime.timedelta(seconds=TIMEOUT if waits else 30)
    relays = list(relay.group(f"{folder}/store", rank, size, timeout).values())
    dist.barrier()
    meet(folder, "ready", rank, range(size))
    began = time.monotonic()
    try:
        got = call(scenario, rank, size, relays)
        told["found"] = "right" if got.equal(expected) else "wrong"
    except Exception as error:
        told["found"] = f"{type(error).__name__}: {error}"
    told["seconds"] = time.monotonic() - began
    told["passed"] = sum(one.chunks for one in relays)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(told, file)
    meet(folder, "told", rank, [one for one in range(size) if one != 1 or not scenario.startswith("killed")])


def ended(folder, rank, status):
    path = f"{folder}/{rank}.json"
    told = {}
    if os.path.exists(path):
        with open(path) as file:
            told = json.load(file)
    return {**told, "exit": os.waitstatus_to_exitcode(status)}


def run(scenario, expected):
    """All numbers of ranks at the same time."""
    processes = {}
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            os.mkdir(f"{scratch}/{size}")
            for rank in range(size):
                process = os.fork()
                if process == 0:
                    work(scenario, rank, size, f"{scratch}/{size}", expected)
                    os._exit(0)  # relays are threads: what gloo closes at an ordinary end would wait for them
                processes[size, rank] = process
        statuses = {key: os.waitpid(process, 0)[1] for key, process in processes.items()}
        return {
            size: [ended(f"{scratch}/{size}", rank, statuses[size, rank]) for rank in range(size)] for size in SIZES
        }


def outcome(told):
    if "found" not in told:
        return "killed" if told["exit"] == -signal.SIGKILL else "gone"
    return told["found"] if told["found"] in ("right", "wrong") else told["found"].partition(":")[0]


def table(found):
    """How many ranks, of all numbers of ranks, ended how; and what the errors say."""
    rows = ["| what happens | ranks | right result | `ParallelError` | `ValueError` | killed | the errors say |"]
    rows.append("|---" * 7 + "|")
    for scenario, said in SAID.items():
        count = collections.Counter(outcome(told) for ranks in found[scenario].values() for told in ranks)
        kind, within = scenario.removesuffix(" within"), ", in the middle of the call" * scenario.endswith(" within")
        counts = [count.pop(name, 0) for name in ("right", "ParallelError", "ValueError", "killed")]
        words = "" if said == "right" else f"{said.strip()} ..." if said == EXCHANGE else f"... {said}"
        cells = [MEANING[kind] + within, sum(counts) + count.total(), *counts, words]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return rows


if __name__ == "__main__":
    expected = isologit.linear_logprobs(HIDDEN, WEIGHT, IDS, threads=1).logprobs
    print(json.dumps({scenario: run(scenario, expected) for scenario in sys.argv[1:] or SAID}))
