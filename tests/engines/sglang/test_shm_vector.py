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


@pytest.fixture(params=[1, 1024, 5001, 3 * 2**20 + 7])
def box(request):
    made = ShmVector.create(request.param)
    yield made
    made.close()


def theta(box, seed=0):
    return np.random.default_rng(seed).normal(size=box._size).astype(np.float32)


def read_there(name, size, checksum, queue):
    other = ShmVector.open(name, size)
    queue.put(other.read(checksum, CPU).numpy().tobytes())
    other.close()


def test_a_vector_arrives_in_another_process(box):
    sent = theta(box)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=read_there, args=(box.name, len(sent), box.write(sent), queue))
    process.start()
    assert queue.get(timeout=60) == sent.tobytes()
    process.join()


def test_another_vector_has_another_version(box):
    checksum = box.write(theta(box))
    assert (box.version, box.write(theta(box))) == (1, checksum)
    assert box.write(theta(box, 1)) != checksum and box.version == 2
    last = theta(box, 1)
    last[-1] = np.nextafter(last[-1], np.float32(9))
    box.write(last)
    assert box.version == 3  # one bit, at the very end
    box.write(-np.zeros_like(last))
    box.write(np.zeros_like(last))
    assert box.version == 5  # bits, not values


def test_zeros_are_written_too(box):
    checksum = box.write(np.zeros(box._size, dtype=np.float32))
    assert box.version == 1 and not box.read(checksum, CPU).any()


def test_every_damaged_byte_is_noticed(box):
    sent = theta(box)
    checksum = box.write(sent)
    for at in {0, 3, len(sent) * 2, len(sent) * 4 - 1}:
        box._memory.buf[at] ^= 1
        with pytest.raises(DamagedMessage, match="checksum"):
            box.read(checksum, CPU)
        box._memory.buf[at] ^= 1
    assert np.array_equal(box.read(checksum, CPU).numpy(), sent)


def test_what_was_read_stays_when_the_box_is_written_again(box):
    read = box.read(box.write(theta(box)), CPU)
    box.write(theta(box, 1))
    assert np.array_equal(read.numpy(), theta(box))


def test_a_vector_of_another_length_is_refused(box):
    with pytest.raises(ValueError, match="shape"):
        box.write(np.zeros(box._size + 1, dtype=np.float32))
    assert box.version == 0


def test_memory_that_somebody_may_write_is_read_again(box):
    writable = theta(box)
    view = writable[:]
    view.flags.writeable = False
    box.write(view)
    writable[-1] += 1
    checksum = box.write(view)
    assert box.version == 2
    assert np.array_equal(box.read(checksum, CPU).numpy(), writable)


def fixed(box, seed=0):
    """A vector that nobody may write."""
    return np.frombuffer(theta(box, seed).tobytes(), dtype=np.float32)


def test_the_same_memory_is_not_looked_at_again(box):
    sent = fixed(box)
    checksum = box.write(sent)
    box._memory.buf[0] ^= 1  # so that one sees who looks
    assert (box.write(sent), box.write(sent[:]), box.version) == (checksum, checksum, 1)
    assert (box.write(sent.copy()), box.version) == (checksum, 2)
    assert np.array_equal(box.read(checksum, CPU).numpy(), sent)


def test_what_was_sent_last_keeps_its_memory(box):
    sent = fixed(box)
    owner = weakref.ref(sent)
    box.write(sent)
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
def test_same_memory_is_the_same_place_length_type_and_order(other, same):
    vector = np.frombuffer(np.arange(6, dtype=np.float32).tobytes(), dtype=np.float32)
    assert shm_vector._same_memory(other(vector), vector) is same


def test_memory_that_does_not_say_is_not_trusted():
    vector = torch.arange(6.0).numpy()
    vector.flags.writeable = False
    assert not shm_vector._same_memory(vector, vector)


def test_large_vectors_are_written_by_several_threads(monkeypatch):
    box = ShmVector.create(2 * shm_vector.PART + 5)
    monkeypatch.setattr(shm_vector, "THREADS", 2)
    seen = set()

    def look(part):
        seen.add(threading.get_ident())
        time.sleep(0.05)
        return part

    parts = list(box._in_parts(look))
    assert [parts[0].start, *(part.stop for part in parts)][-1] == box._size
    assert all(one.stop == two.start for one, two in zip(parts, parts[1:], strict=False))
    assert len(seen) == min(shm_vector.THREADS, len(parts)) and threading.get_ident() not in seen
    box.close()
