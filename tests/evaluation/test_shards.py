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


def test_candidates_of_other_generations_keep_them():
    candidates = (
        Candidate(BASE),
        Candidate(CENTRE),
        Candidate(3, generation=5),
        Candidate(CENTRE, generation=2),
    )
    shard = Shard(7, candidates)
    assert shard.packed() == [
        7,
        [[["train"], [BASE, CENTRE]], [["train"], [3], 1.0, 5], [["train"], [CENTRE], 1.0, 2]],
    ]
    assert Shard.of(*shard.packed()) == shard
    assert str(shard) == (
        "the base model of generation 7 and the centre of generation 7 and member 3 of generation 5 "
        "and the centre of generation 2"
    )
