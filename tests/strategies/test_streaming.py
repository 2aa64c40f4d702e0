"""Keys and values in the host's memory: right, one chunk ahead, and never more than two chunks on the device."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from cases import DTYPES, PATTERNS, SHAPES, both_ways, self_attention
from contract import LAYOUTS, check_inputs_untouched, check_layout, check_oracle, draw

from autotune.strategies import streaming, tile_schedule
from autotune.strategies.catalog import STRATEGIES, build, default_config, supported
from autotune.strategies.config import Config
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem

DENSE = Dense()
RING = STRATEGIES["ring"]
HOST = replace(self_attention(127, causal=True), kv_home="host")
ODD = [replace(self_attention(n, shape=shape), kv_home="host") for n in (1, 7, 127) for shape in SHAPES]
CROSS = [
    Problem(batch=2, heads=6, kv_heads=2, query_len=rows, kv_len=columns, head_dim=40, kv_home="host")
    for rows, columns in [(7, 127), (127, 7), (1, 127), (127, 1), (100, 127)]
]


def ring(chunk_size, query_block=0):
    return Config.of("ring", chunk_size=chunk_size, query_block=query_block, compile="off")


class Watched(streaming.Copier):
    """Fills what must not be read with NaN: copies that are not ready yet, and those released."""

    def __init__(self, *inputs):
        super().__init__(*inputs)
        self.coming, self.events, self.places = [], [], set()

    def start(self, chunk):
        copy = super().start(chunk)
        self.events.append(("start", chunk.start))
        self.coming.append((copy, copy.clone(), chunk.start))
        self.places.add(copy.data_ptr())
        assert len(self.coming) <= streaming.CHUNKS_HELD
        copy.fill_(torch.nan)
        return copy

    def ready(self, copy):
        held, numbers, start = next(each for each in self.coming if each[0] is copy)
        self.events.append(("ready", start))
        held.copy_(numbers)

    def release(self, copy):
        held, _, start = self.coming.pop(0)
        assert held is copy
        self.events.append(("release", start))
        copy.fill_(torch.nan)


@pytest.fixture
def copiers(monkeypatch):
    """The watched copiers that calls have made."""
    made = []

    def watched(*inputs):
        made.append(Watched(*inputs))
        return made[-1]

    monkeypatch.setattr(streaming, "Copier", watched)
    return made


@pytest.mark.parametrize("chunk_size", [1, 5, 64, 4096])
@pytest.mark.parametrize("problem", both_ways([*ODD, *CROSS]), ids=lambda problem: problem.key)
def test_output_is_dense_attention_and_reads_no_chunk_but_the_one_at_hand(copiers, problem, chunk_size):
    for query_block in (0, 50):
        check_oracle(RING.build(problem, DENSE, ring(chunk_size, query_block)), problem, DENSE)
    assert len(copiers) == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_call_gives_what_the_ring_gives_of_keys_on_the_device(dtype):
    problem = replace(HOST, dtype=dtype)
    inputs = draw(problem)
    here, there = (RING.build(replace(problem, kv_home=home), DENSE, ring(20, 50)) for home in ("device", "host"))
    for scale in (None, 0.37, -0.2):
        assert torch.equal(here(*inputs, scale=scale), there(*inputs, scale=scale))


def test_each_chunk_starts_before_the_one_ahead_of_it_is_used_and_in_the_buffer_released(copiers):
    RING.build(replace(HOST, causal=False), DENSE, ring(50, 64))(*draw(HOST))
    (copier,) = copiers
    starts = [0, 50, 100, 0, 50, 100]  # of two blocks of queries, without a pause between them
    expected = [("start", 0), ("ready", 0)]
    for start, after in pairwise(starts):
        expected += [("start", after), ("release", start), ("ready", after)]
    assert copier.events == expected
    assert len(copier.places) == streaming.CHUNKS_HELD


def test_causal_blocks_wait_for_no_chunk_that_they_do_not_see(copiers):
    RING.build(HOST, DENSE, ring(50, 50))(*draw(HOST))
    assert [start for event, start in copiers[0].events if event == "start"] == [0, 0, 50, 0, 50, 100]


def test_blocks_of_unequal_chunk_counts_are_cut_once_and_get_their_own_chunks(copiers, monkeypatch):
    """One chunk, two, three; every tile is shifted once, and blocks that are not kept are cut once."""
    monkeypatch.setattr(tile_schedule, "KEPT_TILES", 0)
    cut, shifted, cutting, replacing = [], [], tile_schedule.TileSchedule._cut, streaming.replace
    monkeypatch.setattr(tile_schedule.TileSchedule, "_cut", lambda *asked: cut.append(asked[1]) or cutting(*asked))
    monkeypatch.setattr(streaming, "replace", lambda tile, **new: shifted.append(tile) or replacing(tile, **new))
    check_oracle(RING.build(HOST, DENSE, ring(50, 50)), HOST, DENSE)
    assert [start for event, start in copiers[0].events if event == "ready"] == [0, 0, 50, 0, 50, 100]
    assert (cut, len(shifted)) == ([0, 1, 2], 1 + 2 + 3)


@pytest.mark.parametrize("wrong", ["never ready", "never released", "released early"])
def test_the_watch_rejects_a_stream_that_takes_a_wrong_step(copiers, monkeypatch, wrong):
    def stray(chunks, copier):
        for chunk in chunks:
            copy = copier.start(chunk)
            if wrong != "never ready":
                copier.ready(copy)
            if wrong == "released early":
                copier.release(copy)
            yield copy
            if wrong == "never ready":
                copier.release(copy)

    monkeypatch.setattr(streaming, "one_ahead", stray)
    with pytest.raises(AssertionError):
        check_oracle(RING.build(HOST, DENSE, ring(20)), HOST, DENSE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_keys_are_as_good_as_contiguous(layout):
    check_layout(RING.build(HOST, DENSE, ring(20)), HOST, DENSE, layout)


@pytest.mark.usefixtures("nan_memory")
def test_no_unwritten_memory_is_read():
    check_oracle(RING.build(HOST, DENSE, ring(20, 50)), HOST, DENSE)


def test_inputs_are_not_modified():
    check_inputs_untouched(RING.build(HOST, DENSE, ring(20)), HOST, DENSE)


def test_memory_is_that_of_the_ring_and_two_chunks_however_many_keys_there_are(copiers):
    for chunk_size, held in ((20, 20), (4096, 127)):
        RING.build(HOST, DENSE, ring(chunk_size))(*draw(HOST))
        estimates = [
            RING.memory_bytes(each, DENSE, ring(chunk_size)) for each in (HOST, replace(HOST, kv_home="device"))
        ]
        assert estimates[0] - estimates[1] == sum(buffer.nbytes for buffer in copiers[-1]._buffers)
        assert estimates[0] - estimates[1] == 2 * held * HOST.kv_bytes // 127
    million, more = (replace(HOST, query_len=4096, kv_len=keys, causal=False) for keys in (1 << 20, 1 << 24))
    assert (
        RING.memory_bytes(million, DENSE, ring(4096)) == RING.memory_bytes(more, DENSE, ring(4096)) < million.kv_bytes
    )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_ring_alone_serves_dense_attention_forward_and_the_others_say_why_not(device):
    problem = replace(HOST, device=device)
    assert list(supported(problem, DENSE)) == ["ring"]
    assert default_config(problem, DENSE).strategy == "ring"
    with pytest.raises(
        UnsupportedError, match=r"sdpa: reads keys and values in the memory of the device only; .* ring: "
    ):
        default_config(replace(problem, direction="training"), DENSE)
    for pattern in PATTERNS.values():
        assert not supported(replace(problem, direction="training"), pattern)
        assert pattern == DENSE or not supported(problem, pattern)
    assert "forward only" in RING.refusal(replace(problem, direction="training"), DENSE)
    assert "not for local_window" in RING.refusal(problem, PATTERNS["window-16"])


def test_tensors_that_require_gradients_are_refused():
    attend, inputs = RING.build(HOST, DENSE, ring(20)), draw(HOST)
    inputs[1].requires_grad_()
    with pytest.raises(UnsupportedError, match="no gradients; detach"):
        attend(*inputs)
    with torch.no_grad():
        check_oracle(attend, HOST, DENSE, inputs=inputs)


def test_cuda_copies_on_its_stream_which_waits_for_the_kernels_before_it_reuses_a_buffer(monkeypatch):
    """What is asked of CUDA, in order; there need be none."""
    log = []

    class Stream:
        def __init__(self, device):
            self.synchronize = lambda: log.append("synchronize")
            self.wait_stream = lambda other: log.append(f"wait for {other}")

    @contextmanager
    def entered(stream):
        log.append("copy")
        yield
        log.append("copied")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"kernels on {device}")
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda buffer, stream: log.append("record"))
    monkeypatch.setattr(streaming, "Copier", streaming.CudaCopier)
    check_oracle(RING.build(HOST, DENSE, ring(64)), HOST, DENSE)
    made = ["record", "wait for kernels on cpu"] * streaming.CHUNKS_HELD
    both = [*("copy", "copied", "synchronize"), *("copy", "copied", "wait for kernels on cpu", "synchronize")]
    assert log == [*made, *both]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pinned", [False, True])
def test_keys_stream_to_a_gpu(pinned):
    problem = Problem.self_attention(4099, heads=4, kv_heads=2, dtype="float16", device="cuda", kv_home="host")
    query, *keys = draw(problem)
    keys = [x.pin_memory() if pinned else x for x in keys]
    for chunk_size in (64, 1000, 8192):
        attend = RING.build(problem, DENSE, ring(chunk_size, 2048))

        def on_gpu(q, k, v, attend=attend):
            return attend(q.cuda(), k, v).cpu()

        check_oracle(on_gpu, problem, DENSE, queries=[0, 1, 63, 64, 2048, 4098], inputs=(query, *keys))


def test_the_catalog_builds_what_the_default_is():
    problem = replace(HOST, query_len=1000, kv_len=1000)
    check_oracle(build(problem, DENSE, default_config(problem, DENSE)), problem, DENSE, queries=[0, 499, 500, 999])
