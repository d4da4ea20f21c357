"""The centre's way into another process."""

import multiprocessing
import threading
import time
import weakref

import numpy as np
import pytest
import torch

from es_ray.engines.sglang.ipc import shm_vector
from es_ray.engines.sglang.ipc.shm_channel import DamagedMessage
from es_ray.engines.sglang.ipc.shm_vector import ShmVector

CPU = torch.device("cpu")


SIZES = (1, 1024, 5001, 3 * 2**20 + 7)


@pytest.fixture(params=SIZES)
def shared(request):
    made = ShmVector.create(request.param)
    yield made
    made.close()


def theta(shared, seed=0):
    return np.random.default_rng(seed).normal(size=shared._size).astype(np.float32)


def read_there(sent, queue):
    for name, size, checksum in sent:
        other = ShmVector.open(name, size)
        queue.put(other.read(checksum, CPU).numpy().tobytes())
        other.close()


def test_vectors_arrive_in_another_process():
    """Of all sizes in one: it takes seconds to start."""
    vectors = [ShmVector.create(size) for size in SIZES]
    written = [(each.name, each._size, each.write(theta(each))) for each in vectors]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=read_there, args=(written, queue))
    process.start()
    for each in vectors:
        assert queue.get(timeout=60) == theta(each).tobytes()
        each.close()
    process.join()


def test_another_vector_has_another_version(shared):
    checksum = shared.write(theta(shared))
    assert (shared.version, shared.write(theta(shared))) == (1, checksum)
    assert shared.write(theta(shared, 1)) != checksum and shared.version == 2
    last = theta(shared, 1)
    last[-1] = np.nextafter(last[-1], np.float32(9))
    shared.write(last)
    assert shared.version == 3  # one bit, at the very end
    shared.write(-np.zeros_like(last))
    shared.write(np.zeros_like(last))
    assert shared.version == 5  # bits, not values


def test_zeros_are_written_too(shared):
    checksum = shared.write(np.zeros(shared._size, dtype=np.float32))
    assert shared.version == 1 and not shared.read(checksum, CPU).any()


def test_every_damaged_byte_is_noticed(shared):
    sent = theta(shared)
    checksum = shared.write(sent)
    for at in {0, 3, len(sent) * 2, len(sent) * 4 - 1}:
        shared._memory.buf[at] ^= 1
        with pytest.raises(DamagedMessage, match="checksum"):
            shared.read(checksum, CPU)
        shared._memory.buf[at] ^= 1
    assert np.array_equal(shared.read(checksum, CPU).numpy(), sent)


def test_what_was_read_stays_when_the_memory_is_written_again(shared):
    read = shared.read(shared.write(theta(shared)), CPU)
    shared.write(theta(shared, 1))
    assert np.array_equal(read.numpy(), theta(shared))


def test_a_vector_of_another_length_is_refused(shared):
    with pytest.raises(ValueError, match="shape"):
        shared.write(np.zeros(shared._size + 1, dtype=np.float32))
    assert shared.version == 0


def test_writable_memory_is_read_again(shared):
    writable = theta(shared)
    view = writable[:]
    view.flags.writeable = False
    shared.write(view)
    writable[-1] += 1
    checksum = shared.write(view)
    assert shared.version == 2
    assert np.array_equal(shared.read(checksum, CPU).numpy(), writable)


def fixed(shared, seed=0):
    """A vector that nobody may write."""
    return np.frombuffer(theta(shared, seed).tobytes(), dtype=np.float32)


def test_the_same_read_only_memory_is_not_read_again(shared):
    sent = fixed(shared)
    checksum = shared.write(sent)
    shared._memory.buf[0] ^= 1  # so that one sees who looks
    assert (shared.write(sent), shared.write(sent[:]), shared.version) == (checksum, checksum, 1)
    assert (shared.write(sent.copy()), shared.version) == (checksum, 2)
    assert np.array_equal(shared.read(checksum, CPU).numpy(), sent)


def test_what_was_sent_last_keeps_its_memory(shared):
    sent = fixed(shared)
    owner = weakref.ref(sent)
    shared.write(sent)
    del sent
    assert owner() is not None


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (lambda v: v[:], True),
        (lambda v: v[:-1], False),
        (lambda v: np.lib.stride_tricks.as_strided(v, strides=(0,)), False),
        (lambda v: v.view(np.int32), False),
        (lambda v: v.copy(), False),
    ],
)
def test_same_memory_is_the_same_address_length_type_and_order(other, same):
    vector = np.frombuffer(np.arange(6, dtype=np.float32).tobytes(), dtype=np.float32)
    assert shm_vector._same_memory(other(vector), vector) is same


def test_memory_of_unknown_access_is_not_trusted():
    vector = torch.arange(6.0).numpy()
    vector.flags.writeable = False
    assert not shm_vector._same_memory(vector, vector)


def test_large_vectors_are_written_by_several_threads(monkeypatch):
    shared = ShmVector.create(2 * shm_vector.PART + 5)
    monkeypatch.setattr(shm_vector, "THREADS", 2)
    seen = set()

    def look(part):
        seen.add(threading.get_ident())
        time.sleep(0.05)
        return part

    parts = list(shared._in_parts(look))
    assert [parts[0].start, *(part.stop for part in parts)][-1] == shared._size
    assert all(one.stop == two.start for one, two in zip(parts, parts[1:], strict=False))
    assert len(seen) == min(shm_vector.THREADS, len(parts)) and threading.get_ident() not in seen
    shared.close()
