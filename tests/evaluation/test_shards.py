"""How shards travel to workers: as plain lists, with factors of sigma where there are any."""

from es_ray.evaluation import BASE, CENTRE, Candidate, Shard


def test_a_shard_is_the_same_after_its_journey():
    members = [Candidate(0), Candidate(1), Candidate(2, ("train",), 0.1), Candidate(3, ("train",), 0.1)]
    shard = Shard(7, (*members, Candidate(4, ("train",), 0.3), Candidate(CENTRE, ("train", "test"))))
    packed = shard.packed()
    assert packed == [
        7,
        [
            [["train"], [0, 1]],
            [["train"], [2, 3], 0.1],
            [["train"], [4], 0.3],
            [["train", "test"], [CENTRE]],
        ],
    ]
    assert Shard.of(*packed) == shard


def test_without_factors_nothing_else_is_sent():
    assert Shard(0, (Candidate(0), Candidate(BASE))).packed() == [0, [[["train"], [0, BASE]]]]
