import multiprocessing

import numpy as np
import pytest

from es_ray.engines.sglang.ipc.shm_channel import DamagedMessage, Message, ReplyChannel, ShmChannel

MESSAGE = Message(
    {"seed": "18446744073709551615", "generation": 3, "antithetic": False, "name": "Größe"},
    {
        "theta": np.random.default_rng(0).normal(size=1001).astype(np.float32),
        "candidates": np.array([0, 5, -1, -2]),
        "table": np.arange(6, dtype=np.float64).reshape(2, 3),
        "none": np.empty(0, dtype=np.int32),
        "long": np.arange(2500, dtype=np.float64),
    },
)


@pytest.fixture
def channel():
    made = ShmChannel.create(30_000)
    yield made
    made.close()


def same(one: Message, other: Message) -> None:
    assert dict(one.values) == dict(other.values)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.dtype == other.arrays[name].dtype
        assert np.array_equal(array, other.arrays[name])


def echo(name: str, checksum: int, reply: str) -> None:
    ReplyChannel.open(reply, 2).write(1, 7, ShmChannel.open(name).read(checksum))


def test_a_message_arrives_in_another_process_and_comes_back(channel):
    replies = ReplyChannel.create(2, 10_000)
    checksum = channel.write(MESSAGE)
    process = multiprocessing.get_context("spawn").Process(
        target=echo, args=(channel.name, checksum, replies.name)
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0
    same(replies.read(1, 7), MESSAGE)
    with pytest.raises(DamagedMessage, match="rank 0"):
        replies.read(0, 7)
    with pytest.raises(DamagedMessage, match="call 7, not 8"):
        replies.read(1, 8)
    replies.close()


def test_every_damaged_byte_is_noticed(channel):
    checksum = channel.write(MESSAGE)
    bytes_ = channel._memory.buf
    for at in [3, 8, 9, 40, 200, 512, 1000, 4000, 9000, 16000, 24000]:
        bytes_[at] ^= 1
        with pytest.raises(DamagedMessage):
            channel.read(checksum)
        bytes_[at] ^= 1
    same(channel.read(checksum), MESSAGE)
    with pytest.raises(DamagedMessage):
        channel.read(checksum ^ 1)


def test_what_was_read_stays_when_the_channel_is_written_again(channel):
    read = channel.read(channel.write(MESSAGE))
    channel.write(Message({}, {"theta": np.zeros(1001, np.float32)}))
    same(read, MESSAGE)


def test_a_message_that_is_too_large_is_refused(channel):
    with pytest.raises(ValueError, match="channel"):
        channel.write(Message({}, {"theta": np.zeros(channel.size, np.uint8)}))


def test_ranks_do_not_overwrite_each_other():
    replies = ReplyChannel.create(3, 5_000)
    for rank in (2, 0, 1):
        replies.write(rank, 4, Message({"rank": rank}, {"x": np.full(1250, rank, np.float32)}))
    for rank in range(3):
        answer = replies.read(rank, 4)
        assert answer.values["rank"] == rank
        assert set(answer.arrays["x"]) == {rank}
    replies.close()
