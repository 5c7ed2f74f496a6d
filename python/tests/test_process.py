"""Signals, threads and forks."""

import multiprocessing
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import isologit


def head(rows=4, vocab=64, size=16):
    rng = np.random.default_rng(1)
    return (
        rng.standard_normal((rows, size), dtype=np.float32),
        rng.standard_normal((vocab, size), dtype=np.float32),
        rng.integers(0, vocab, rows),
    )


# Minutes of work on any machine: every logit by exact accumulation.
LONG_CALL = textwrap.dedent("""
    import signal, sys, numpy as np, isologit
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what started the tests may ignore it
    hidden, weight = np.ones((64, 1024), np.float32), np.ones((100000, 1024), np.float32)
    def call():
        isologit.score(hidden, weight, np.zeros(64, np.int64), kernel="reference", threads=2)
""")


def interrupted(code):
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_CALL + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "started\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err, time.monotonic() - begin


def test_ctrl_c_stops_a_call_between_tiles():
    code, out, err, _ = interrupted("""
        print("started", flush=True)
        try:
            call()
        except KeyboardInterrupt:
            print("interrupted")
            small = np.ones((1, 4), np.float32)
            print(isologit.score(small, small, [0]).logprobs)
    """)
    assert (code, out, err) == (0, "interrupted\n[0.]\n", "")


# What is asked of a long call on the library's own threads, and after how many CPU seconds it is interrupted.
PHASES = {
    "scores": ("isologit.score(hidden, weight, ids, outputs=('logprobs', 'entropy', 'rank'), top_k=5, threads=2)", 0.3),
    "the first moments": ("isologit.score(hidden, weight, ids, threads=2)", 0.01),
    "logits": ("isologit.logits(hidden, weight, threads=2)", 0.3),
    "samples": ("isologit.sample(hidden, weight, seed=1, sequence_id=2, position=ids, top_p=0.9, threads=2)", 0.3),
    "given logits": ("isologit.log_softmax(rows, threads=2)", 0.1),
}


def test_ctrl_c_is_answered_soon():
    # test_interrupts.py does so on OpenMP's threads, of all phases.
    code = f"""
import sys, numpy as np, isologit
sys.path.insert(0, {str(Path(__file__).parent)!r})
from interrupted import AMPLE, best_seconds_after_signal
rng = np.random.default_rng(1)
hidden, weight = (rng.standard_normal((n, 1024), dtype=np.float32) for n in (4000, 20000))
isologit.score, isologit.logits, isologit.sample, isologit.log_softmax  # imported now
ids = np.zeros(4000, np.int64)
rows = np.broadcast_to(rng.standard_normal(50000, dtype=np.float32), (8000, 50000))
for name, (call, after) in {PHASES}.items():
    seconds = best_seconds_after_signal(lambda: eval(call), after)
    assert seconds < AMPLE, (name, seconds)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_handler_that_does_not_raise_lets_the_call_go_on():
    code, out, err, _ = interrupted("""
        import signal
        seen = []
        def handle(*_):
            seen.append(1)
            if len(seen) == 1:
                signal.setitimer(signal.ITIMER_REAL, 0.2)  # the call is still running then
        class Stop(Exception): pass
        def stop(*_): raise Stop
        signal.signal(signal.SIGINT, handle)
        signal.signal(signal.SIGALRM, stop)
        print("started", flush=True)
        try:
            call()
        except Stop:
            print("stopped after", len(seen))
    """)
    assert (code, out, err) == (0, "stopped after 1\n", "")


def test_the_gil_is_released():
    # The other thread can only tick while this one is inside the library if the library has let go of the GIL.
    hidden, weight, ids = head(rows=64, vocab=4096, size=256)
    ticks, stop = [], threading.Event()
    former = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)  # nobody is made to give it up

    def tick():
        while not stop.is_set():
            ticks.append(1)
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    try:
        thread.start()
        before = len(ticks)
        isologit.score(hidden, weight, ids, kernel="reference", threads=1)
        after = len(ticks)
    finally:
        sys.setswitchinterval(former)
        stop.set()
        thread.join()
    assert after > before + 5


def test_any_number_of_threads_gives_the_same_bits():
    hidden, weight, ids = head(rows=7, vocab=5000, size=24)
    one = isologit.score(hidden, weight, ids, threads=1, outputs=("logprobs", "lse", "entropy"))
    for threads in (2, 3, 8):
        other = isologit.score(hidden, weight, ids, threads=threads, outputs=("logprobs", "lse", "entropy"))
        assert other.report.threads == threads
        for name in ("logprobs", "lse", "entropy"):
            np.testing.assert_array_equal(getattr(one, name).view(np.uint32), getattr(other, name).view(np.uint32))


def _child(queue):
    hidden, weight, ids = head(vocab=5000)
    queue.put(isologit.score(hidden, weight, ids, threads=4).logprobs)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_scores_with_threads_of_its_own():
    hidden, weight, ids = head(vocab=5000)
    expected = isologit.score(hidden, weight, ids, threads=4).logprobs  # the parent's threads exist when it forks
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_child, args=(queue,)) for _ in range(3)]
    for child in children:
        child.start()
    for _ in children:
        np.testing.assert_array_equal(queue.get(timeout=60), expected)
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0


def test_a_handler_that_raises_while_a_partial_score_finishes_is_heard():
    # Rows enough that finish_round, which the library asks every 50 ms whether to go on, takes longer than that.
    code = """
import signal, numpy as np, isologit.partial
class Stop(Exception): pass
def stop(*_): raise Stop
signal.signal(signal.SIGALRM, stop)
hidden = np.ones((1 << 19, 1), np.float32)
score = isologit.partial.PartialScore(hidden, vocab_size=2, outputs=("entropy", "sum_p2", "lse"), threads=1)
score.absorb(np.array([[1], [2]], np.float32))
signal.setitimer(signal.ITIMER_REAL, 0.01)
try:
    score.finish_round()
except Stop:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("stopped\n", "")
