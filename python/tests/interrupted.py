"""How soon a signal's handler that raises ends a call."""

import os
import signal
import threading
import time

AMPLE = 0.4  # CPU seconds of two threads: a fifth of a second on a machine that does nothing else
TRIES = 3  # of which the best counts: a machine that does much else may let the thread that is to answer wait


class Stop(Exception):
    """What the handler raises."""


def _stop(*_):
    raise Stop


def seconds_after_signal(call, after):
    """CPU seconds of the whole process from a signal, sent after so many of them, to the end of call().

    They are what the call still worked, however busy the machine is. Fails where the call ends of its own accord.
    """
    former = signal.signal(signal.SIGUSR1, _stop)
    begin, sent, over = time.process_time(), [], threading.Event()

    def send():
        while time.process_time() < begin + after and not over.is_set():
            time.sleep(0.001)
        if not over.is_set():
            sent.append(time.process_time())
            os.kill(os.getpid(), signal.SIGUSR1)

    sender = threading.Thread(target=send)
    try:
        try:
            sender.start()
            call()
        finally:
            end = time.process_time()
            over.set()
            sender.join()
    except Stop:
        return end - sent[0]
    finally:
        signal.signal(signal.SIGUSR1, former)
    raise AssertionError(f"the call ended after {end - begin:.2f} CPU seconds, before it was interrupted")


def best_seconds_after_signal(call, after):
    best = seconds_after_signal(call, after)
    for _ in range(TRIES - 1):
        if best < AMPLE:
            break
        best = min(best, seconds_after_signal(call, after))
    return best
