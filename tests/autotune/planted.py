"""Strategies that go wrong on purpose, each in one way; importable by the worker process, which unpickles them."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

from autotune.strategies.config import Config
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.pattern import Dense
from autotune.strategies.space import Choice, Space
from autotune.strategies.strategy import Strategy

HANG_S = 600.0
CHILD_MARK = "AUTOTUNE_TEST_CHILD"
VARIANTS = 8


class Correct(Strategy):
    """Right, in two variants that are equally right; every other one here changes one thing about it."""

    name = "correct"

    def unsupported(self, problem, pattern):
        return None

    def space(self, problem, pattern):
        return Space(self.name, (Choice("variant", (0, 1)),))

    def memory_bytes(self, problem, pattern, config):
        return problem.output_bytes

    def build(self, problem, pattern, config):
        return self.attend

    def attend(self, query, key, value, *, scale=None):
        return scaled_dot_product_attention(query, key, value, scale=scale)


class Many(Correct):
    """Right, in many variants."""

    name = "many"

    def space(self, problem, pattern):
        return Space(self.name, (Choice("variant", tuple(range(VARIANTS))),))


class Planted(Correct):
    """One configuration only."""

    def space(self, problem, pattern):
        return Space(self.name)


class WithoutCompiler(Planted):
    """Right, where nothing has loaded torch's compiler yet."""

    name = "without_compiler"

    def build(self, problem, pattern, config):
        if "torch._dynamo" in sys.modules:
            raise RuntimeError("the compiler is loaded")
        return self.attend


class Zeros(Planted):
    """The fast no-op that won the published benchmark."""

    name = "zeros"

    def attend(self, query, key, value, *, scale=None):
        return torch.zeros_like(query)


class NotANumber(Planted):
    name = "nan"

    def attend(self, query, key, value, *, scale=None):
        return torch.full_like(query, float("nan"))


class FirstRowsOnly(Planted):
    """Right for the first half of the rows; the others are left as they were allocated, here zeros."""

    name = "first_rows"

    def attend(self, query, key, value, *, scale=None):
        out = torch.zeros_like(query)
        half = query.shape[-2] // 2
        out[..., :half, :] = super().attend(query[..., :half, :], key, value, scale=scale)
        return out


class Copies(Planted):
    """Returns the values: no zeros, ones in the channel of ones, and still no attention."""

    name = "copies"

    def attend(self, query, key, value, *, scale=None):
        return value.clone()


class Segfaults(Planted):
    name = "segfaults"

    def attend(self, query, key, value, *, scale=None):
        ctypes.string_at(0)


class IllegalInstruction(Planted):
    name = "sigill"

    def attend(self, query, key, value, *, scale=None):
        os.kill(os.getpid(), signal.SIGILL)


class Killed(Planted):
    """What anybody may do to any process, and the kernel to the one that takes the last of the memory."""

    name = "sigkill"

    def attend(self, query, key, value, *, scale=None):
        os.kill(os.getpid(), signal.SIGKILL)


class DiesInMessage(Planted):
    """Killed while the worker tells the coordinator something, of which only the beginning arrives."""

    name = "dies_in_message"

    def attend(self, query, key, value, *, scale=None):
        os.write(int(sys.argv[1]), (1000).to_bytes(4, "big") + b"the beginning")
        os.kill(os.getpid(), signal.SIGTERM)


class Exits(Planted):
    name = "exits"

    def attend(self, query, key, value, *, scale=None):
        sys.stderr.write("about to leave")
        sys.stderr.flush()
        os._exit(3)


class RaisesSystemExit(Planted):
    name = "system_exit"

    def build(self, problem, pattern, config):
        raise SystemExit(0)


class HangsInBuild(Planted):
    """Also starts a process, as compilers do, and notes its id where the environment says."""

    name = "hangs_in_build"

    def build(self, problem, pattern, config):
        if path := os.environ.get(CHILD_MARK):
            child = subprocess.Popen(["sleep", str(HANG_S)])
            Path(path).write_text(str(child.pid))
        time.sleep(HANG_S)


class HangsInSecondCall(Planted):
    """The first call belongs to the compile phase."""

    name = "hangs_in_call"

    def build(self, problem, pattern, config):
        calls = 0

        def attend(query, key, value, *, scale=None):
            nonlocal calls
            calls += 1
            if calls > 1:
                time.sleep(HANG_S)
            return self.attend(query, key, value, scale=scale)

        return attend


class ExhaustsMemory(Planted):
    name = "exhausts_memory"

    def attend(self, query, key, value, *, scale=None):
        kept = []
        while True:
            kept.append(torch.ones(4 << 20))  # 16 MiB, every page touched


class TakesMemory(Planted):
    """Right, and takes 256 MiB on the way."""

    name = "takes_memory"

    def attend(self, query, key, value, *, scale=None):
        torch.ones(64 << 20)
        return super().attend(query, key, value, scale=scale)


class SlowToBuild(Planted):
    """Right, after a second."""

    name = "slow_to_build"

    def build(self, problem, pattern, config):
        time.sleep(1.0)
        return self.attend


class ExhaustsPythonMemory(Planted):
    name = "exhausts_python_memory"

    def attend(self, query, key, value, *, scale=None):
        kept = []
        while True:
            kept.append(bytearray(b"x") * (16 << 20))


class RaisesInBuild(Planted):
    name = "raises_in_build"

    def build(self, problem, pattern, config):
        raise RuntimeError("this does not compile")


class RaisesInSecondCall(Planted):
    name = "raises_in_call"

    def build(self, problem, pattern, config):
        outputs = iter([None])

        def attend(query, key, value, *, scale=None):
            next(outputs)
            return self.attend(query, key, value, scale=scale)

        return attend


class Unsupported(Planted):
    """Finds out only when it is built."""

    name = "unsupported"

    def build(self, problem, pattern, config):
        raise UnsupportedError("this kernel needs compute capability 9.0")


class WrongGradients(Planted):
    """Forward right; the value's gradient is cut off."""

    name = "wrong_gradients"

    def attend(self, query, key, value, *, scale=None):
        return super().attend(query, key, value.detach() + 0.5 * (value - value.detach()), scale=scale)


class SpoilsInputs(Planted):
    """Right answer, but leaves zeros where the values were."""

    name = "spoils_inputs"

    def attend(self, query, key, value, *, scale=None):
        out = super().attend(query, key, value, scale=scale)
        value.zero_()
        return out


class RightOnlyOnce(Planted):
    """Right while it is being checked, and a no-op while it is being timed."""

    name = "right_only_once"

    def build(self, problem, pattern, config):
        calls = 0

        def attend(query, key, value, *, scale=None):
            nonlocal calls
            calls += 1
            return self.attend(query, key, value, scale=scale) if calls == 1 else torch.zeros_like(query)

        return attend


class NeedsLength(Planted):
    """Takes inputs of one problem only."""

    name = "needs_length"

    def __init__(self, problem):
        self.problem = problem

    def attend(self, query, key, value, *, scale=None):
        if query.shape[-2] != self.problem.query_len:
            raise ValueError("the inputs are another problem's")
        return super().attend(query, key, value, scale=scale)


@dataclass(frozen=True)
class Unprepared(Dense):
    """Its oracle never gets ready."""

    kind = "unprepared"
    signal: int = 0  # sent to the worker; it hangs if there is none

    def mask_rows(self, problem, head, rows):
        os.kill(os.getpid(), self.signal)
        time.sleep(HANG_S)


CORRECT = Correct()


def config_of(strategy: Strategy) -> Config:
    """The first configuration of a planted strategy."""
    return strategy.space(None, None).default
