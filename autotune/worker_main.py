"""The worker process: tries the candidates it is sent, one after the other, until its pipe closes.

It may crash, hang or run out of memory; `autotune.worker` is the side that survives it.
"""

import ctypes
import os
import signal
import sys
from multiprocessing.connection import Connection


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the coordinator goes, however it goes (Linux)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it went before the kernel was told
            os._exit(1)


def main(descriptor: int, parent: int) -> None:
    """Serve candidates from a connection on a file descriptor."""
    die_with_parent(parent)
    import torch

    from autotune.candidate import Bench, Candidate, Race
    from autotune.heap import settle_heap
    from autotune.rates import RateTask, measure_rates

    settle_heap()
    bench = Bench()
    torch.compiler.reset()  # loads the compiler, seconds that no candidate should have to answer for
    with Connection(descriptor) as connection:
        connection.send("ready")
        while True:
            try:
                task = connection.recv()
            except EOFError:
                return
            match task:
                case Candidate():
                    answer: object = bench.measure(task, connection.send)
                case Race():
                    answer = bench.race(task, connection.send)
                case RateTask():
                    answer = measure_rates(task)
            connection.send(answer)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
