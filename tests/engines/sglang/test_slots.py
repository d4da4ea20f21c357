"""Which adapters a batch needs, and in which slots and calls."""

from es_ray.engines.base import BASE, CENTRE, Row, Variant
from es_ray.engines.sglang.slots import AdapterGroup, adapters_of, batches, groups


def rows(*variants: Variant) -> list[Row]:
    return [Row(variant, (1, 2)) for variant in variants]


def test_adapters_come_in_order_of_their_first_rows_and_the_base_model_needs_none():
    found = adapters_of(rows(Variant(BASE), Variant(3, 1), Variant(0, 1), Variant(3, 1), Variant(BASE, 4)))
    assert found == [Variant(3, 1), Variant(0, 1)]


def test_a_centre_is_one_adapter_whatever_generation_or_sigma_a_row_names():
    found = adapters_of(rows(Variant(CENTRE, 5), Variant(CENTRE, 0, 0, 2.0), Variant(CENTRE, 5, 1)))
    assert found == [Variant(CENTRE), Variant(CENTRE, centre=1)]


def test_factors_generations_and_centres_are_adapters_of_their_own():
    variants = [Variant(0, 1), Variant(0, 2), Variant(0, 1, 1), Variant(0, 1, 0, 0.5)]
    assert adapters_of(rows(*variants)) == variants


def test_a_population_and_its_centre_are_one_group():
    slot_of = {adapter: n for n, adapter in enumerate(adapters_of(rows(
        Variant(CENTRE, 7), *(Variant(n, 7) for n in range(3)), Variant(BASE)
    )))}  # fmt: skip
    adapters = (Variant(CENTRE), Variant(0, 7), Variant(1, 7), Variant(2, 7))
    assert groups(slot_of) == [AdapterGroup(0, 7, adapters, (0, 1, 2, 3))]


def test_each_centre_and_generation_is_a_group_with_the_slots_of_its_adapters():
    slot_of = {
        Variant(0, 1): 0,
        Variant(0, 1, 1): 1,
        Variant(1, 1): 2,
        Variant(0, 2): 3,
        Variant(CENTRE, centre=2): 4,
    }
    assert groups(slot_of) == [
        AdapterGroup(0, 1, (Variant(0, 1), Variant(1, 1)), (0, 2)),
        AdapterGroup(1, 1, (Variant(0, 1, 1),), (1,)),
        AdapterGroup(0, 2, (Variant(0, 2),), (3,)),
        AdapterGroup(2, 0, (Variant(CENTRE, centre=2),), (4,)),
    ]


def test_rows_are_cut_where_the_slots_end():
    asked = rows(Variant(0), Variant(BASE), Variant(1), Variant(2), Variant(0), Variant(CENTRE), Variant(4))
    assert [numbers for numbers, _ in batches(asked, 2)] == [[0, 1, 2, 4], [3, 5], [6]]
    assert [batch for _, batch in batches(asked, 2)] == [
        [asked[n] for n in (0, 1, 2, 4)],
        [asked[3], asked[5]],
        [asked[6]],
    ]
    assert list(batches(asked, 5)) == [(list(range(7)), asked)]
    assert [numbers for numbers, _ in batches(rows(Variant(BASE), Variant(BASE)), 2)] == [[0, 1]]
