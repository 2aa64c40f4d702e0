"""The worker process: tries the candidates it is sent, one after the other, until its pipe closes.

It may crash, hang or run out of memory; `autotune.worker` is the side that survives it.
"""

import os
import signal
import sys
from multiprocessing.connection import Connection


def end_with(lifeline: int, descriptor: int) -> None:
    """Leave a guard behind that kills this process's group when the coordinator goes, however it goes.

    Compilers that a candidate has started are in the group too. The guard has to be left before there are threads.

    Args:
        lifeline: a pipe of which only the coordinator has the other end.
        descriptor: the worker's connection, which the guard must not keep open.
    """
    if os.fork():
        os.close(lifeline)
        return
    os.close(descriptor)
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


def main(descriptor: int, lifeline: int) -> None:
    """Serve candidates from a connection on a file descriptor."""
    end_with(lifeline, descriptor)
    from autotune.candidate import Bench, Candidate, Race
    from autotune.heap import settle_heap
    from autotune.rates import RateTask, measure_rates

    settle_heap()
    bench = Bench()
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
