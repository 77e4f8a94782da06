import itertools

import pytest
import torch

from linreg_pl.data.sampling import MiniBatches, Orders, permutation, seeded_generator


def rows_of(shares):
    """Row numbers of every share, as lists."""
    return [torch.arange(1000)[share.rows].tolist() for share in shares]


def test_generator_depends_on_its_key_alone():
    draws = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        draws.append(torch.randn(3, generator=seeded_generator(7, "order", 0)).tolist())
    assert draws[0] == draws[1]


def test_keys_do_not_collide():
    keys = [(0, "order", 1), (1, "order", 0), (0, "order", 11), (0, "order1", 1), (0, "split"), (10, "split")]
    assert len({seeded_generator(*key).initial_seed() for key in keys}) == len(keys)


def test_permutation_holds_every_row_once():
    assert permutation(101, seed=3, epoch=2).sort().values.tolist() == list(range(101))


def test_permutation_is_the_same_on_every_platform():
    assert permutation(10, seed=0, epoch=0).tolist() == [8, 9, 5, 6, 1, 0, 7, 3, 2, 4]
    assert permutation(10, seed=0, epoch=1).tolist() == [1, 0, 8, 6, 7, 9, 5, 4, 2, 3]
    assert permutation(10, seed=1, epoch=0).tolist() == [2, 3, 9, 0, 8, 7, 4, 6, 5, 1]


def test_drawing_an_order_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    list(MiniBatches(100, 10, seed=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("num_rows", "batch_size"), [(100, 10), (103, 10), (103, 1), (7, 10), (12, 5)])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
def test_shares_of_all_processes_are_the_mini_batch(num_rows, batch_size, world_size):
    order = permutation(num_rows, seed=5, epoch=2).tolist()
    expected = [order[start : start + batch_size] for start in range(0, num_rows, batch_size)]
    loaders = [
        MiniBatches(num_rows, batch_size, rank, world_size, seed=5, position=lambda: (2, 0))
        for rank in range(world_size)
    ]
    steps = list(zip(*map(list, loaders), strict=True))  # strict: all processes take as many steps
    assert len(steps) == len(loaders[0]) == len(expected)
    for shares, batch in zip(steps, expected, strict=True):
        assert {share.num_rows for share in shares} == {len(batch)}
        parts = rows_of(shares)
        assert parts == [batch[rank::world_size] for rank in range(world_size)]
        assert sorted(itertools.chain(*parts)) == sorted(batch)


def test_a_process_may_have_no_row():
    (share,) = MiniBatches(num_rows=3, batch_size=10, rank=4, world_size=5, seed=0)
    assert (share.rows.numel(), share.num_rows) == (0, 3)


def test_without_a_seed_rows_come_in_order():
    assert rows_of(MiniBatches(7, 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert rows_of(MiniBatches(7, 3, rank=1, world_size=2)) == [[1], [4], []]


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("done", [0, 1, 10, 11])
def test_position_skips_what_is_done(seed, done):
    whole = rows_of(MiniBatches(103, 10, seed=seed, position=lambda: (4, 0)))
    assert rows_of(MiniBatches(103, 10, seed=seed, position=lambda: (4, done))) == whole[done:]


def test_position_is_asked_when_iteration_starts():
    position = [0, 0]
    loader = MiniBatches(10, 5, seed=0, position=lambda: tuple(position))
    first, position[0] = rows_of(loader), 1
    assert first == [permutation(10, 0, 0)[:5].tolist(), permutation(10, 0, 0)[5:].tolist()]
    assert rows_of(loader) == [permutation(10, 0, 1)[:5].tolist(), permutation(10, 0, 1)[5:].tolist()]


def test_orders_drawn_ahead_are_those_drawn_at_once():
    orders = Orders(1000, seed=3)
    for epoch in (0, 1, 2, 7, 8, 1):
        assert torch.equal(orders.of(epoch), permutation(1000, 3, epoch))
