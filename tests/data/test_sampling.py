import itertools

import numpy as np
import pytest
import torch

from linreg_pl.data.rows import Batch, Rows
from linreg_pl.data.sampling import (
    Chunks,
    MiniBatches,
    OneWindow,
    Orders,
    Sample,
    Split,
    Streamed,
    permutation,
    seeded_generator,
)
from linreg_pl.data.spill import Spill


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


def table_rows(num_rows):
    """Rows whose target is their number."""
    row = torch.arange(num_rows, dtype=torch.float32)[:, None]
    return Rows(torch.cat([row, -row], dim=1), row, row + 1)


@pytest.fixture(params=["in memory", "windows"])
def windows(request, tmp_path):
    """Makes a table that comes in one window, or in windows of a few mini-batches."""
    opened = []

    def make(num_rows, batch_size, seed=5):
        rows = table_rows(num_rows)
        if request.param == "in memory":
            return OneWindow(rows, Orders(num_rows, seed))
        spill = Spill(tmp_path / f"{len(opened)}.rows", num_rows, 2, True, batch_size, seed, 2**11)
        opened.append(spill)
        spill.write([Batch(rows.X, rows.y, num_rows, slice(0, num_rows), rows.weight)])
        return spill

    yield make
    for spill in opened:
        spill.close()


def whole_order(source, epoch):
    """Row numbers of an epoch."""
    return [int(row) for window in source.windows(epoch, 0) for row in window.rows.y[window.order, 0]]


STRUCTURES = [(1000, 10), (1003, 10), (1003, 1), (700, 100), (7, 10), (1003, 300)]


class TestStreamed:
    @pytest.mark.parametrize(("num_rows", "batch_size"), STRUCTURES)
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    def test_shares_of_all_processes_are_the_mini_batch(self, windows, num_rows, batch_size, world_size):
        source = windows(num_rows, batch_size)
        order = whole_order(source, 2)
        assert sorted(order) == list(range(num_rows))
        loaders = [Streamed(source, batch_size, rank, world_size, lambda: (2, 0)) for rank in range(world_size)]
        steps = list(zip(*map(list, loaders), strict=True))
        assert len(steps) == len(loaders[0]) == -(-num_rows // batch_size)
        for step, batches in enumerate(steps):
            expected = order[step * batch_size : (step + 1) * batch_size]
            assert {batch.num_rows for batch in batches} == {len(expected)}
            assert [batch.y[:, 0].tolist() for batch in batches] == [expected[r::world_size] for r in range(world_size)]

    def test_rows_keep_what_belongs_to_them(self, windows):
        for batch in Streamed(windows(1003, 10), 10):
            assert torch.equal(batch.X, torch.cat([batch.y, -batch.y], dim=1))
            assert torch.equal(batch.weight, batch.y + 1)

    @pytest.mark.parametrize("done", [0, 1, 17, 50, 99, 100, 101])
    def test_position_skips_what_is_done(self, windows, done):
        source = windows(1003, 10)
        whole = [batch.y.tolist() for batch in Streamed(source, 10, 1, 2, lambda: (4, 0))]
        assert [batch.y.tolist() for batch in Streamed(source, 10, 1, 2, lambda: (4, done))] == whole[done:]


class TestChunks:
    @staticmethod
    def mini_batches(chunks):
        """This process's row numbers of each mini-batch, with its rows over all processes."""
        for chunk in chunks:
            parts = chunk.order.split(chunk.batch_size) if chunk.batch_size else [chunk.order] * len(chunk.counts)
            parts = [*parts, *[chunk.order[:0]] * (len(chunk.counts) - len(parts))]  # of which it may have no row
            for part, count in zip(parts, chunk.counts.tolist(), strict=True):
                yield chunk.rows.y[part, 0].tolist(), count

    @pytest.mark.parametrize(("num_rows", "batch_size"), STRUCTURES)
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    @pytest.mark.parametrize(("steps", "divisor"), [(1, 0), (7, 0), (7, 5), (1000, 0), (1000, 3)])
    def test_they_are_the_mini_batches(self, windows, num_rows, batch_size, world_size, steps, divisor):
        source = windows(num_rows, batch_size)
        for rank in range(world_size):
            chunks = Chunks(source, batch_size, rank, world_size, lambda: (2, 0), steps=steps, divisor=divisor)
            single = Streamed(source, batch_size, rank, world_size, lambda: (2, 0))
            expected = [(batch.y[:, 0].tolist(), batch.num_rows) for batch in single]
            assert list(self.mini_batches(chunks)) == expected

    @pytest.mark.parametrize("done", [0, 1, 17, 50, 99, 100, 101])
    def test_position_skips_what_is_done(self, windows, done):
        source = windows(1003, 10)
        expected = [(batch.y[:, 0].tolist(), batch.num_rows) for batch in Streamed(source, 10, 0, 1, lambda: (4, 0))]
        chunks = Chunks(source, 10, 0, 1, lambda: (4, done), steps=7, divisor=4)
        assert list(self.mini_batches(chunks)) == expected[done:]

    @pytest.mark.parametrize("epoch", [0, 1, 2])
    def test_they_end_where_the_divisor_says(self, windows, epoch):
        chunks = Chunks(windows(1003, 10), 10, 0, 1, lambda: (epoch, 0), steps=7, divisor=4)
        before, ends = 101 * epoch, []
        for chunk in chunks:
            assert len(chunk.counts) <= 4
            before += len(chunk.counts)
            ends.append(before)
        assert {end for end in range(101 * epoch + 1, before + 1) if end % 4 == 0} <= set(ends)


class TestSplit:
    FRACTIONS = ((0.0, 0.0), (0.25, 0.1), (0.3, 0.0), (0.0, 0.9), (1e-3, 1e-3), (0.05, 0.15))
    SIZES = (1, 2, 10, 1000, 65_535, 65_536, 70_001, 131_072, 200_003)

    @pytest.mark.parametrize("fractions", FRACTIONS)
    @pytest.mark.parametrize("num_rows", SIZES)
    def test_parts_have_as_many_rows_as_promised(self, num_rows, fractions):
        split = Split(num_rows, fractions, seed=3)
        counts = np.bincount(split.parts(0, num_rows), minlength=3).tolist()
        assert counts[1:] == split.counts() == [round(fraction * num_rows) for fraction in fractions]
        assert sum(counts) == num_rows

    @pytest.mark.parametrize(("num_rows", "fraction"), [(65_537, 0.4), (65_539, 0.4), (2**20 + 1, 0.15)])
    def test_however_few_rows_stand_in_the_last_block(self, num_rows, fraction):
        split = Split(num_rows, (fraction, fraction), seed=0)
        assert np.bincount(split.parts(0, num_rows), minlength=3)[1:].tolist() == split.counts()

    @pytest.mark.parametrize("fractions", FRACTIONS)
    def test_every_block_has_its_share(self, fractions):
        parts = Split(2**18, fractions, seed=3).parts(0, 2**18).numpy()
        for start in range(0, 2**18, 65_536):
            block = parts[start : start + 65_536]
            for part, fraction in enumerate(fractions, start=1):
                assert abs((block == part).sum() - fraction * len(block)) <= 1

    def test_within_a_block_it_is_random(self):
        parts = Split(2**16, (0.25, 0.0), seed=0).parts(0, 2**16).numpy()
        held_out = np.flatnonzero(parts)
        gaps = np.bincount(np.diff(held_out), minlength=5)[1:5] / (len(held_out) - 1)
        np.testing.assert_allclose(gaps, 0.25 * 0.75 ** np.arange(4), atol=0.02)  # the geometric distribution's

    def test_blocks_are_drawn_apart(self):
        parts = Split(2**17, (0.5, 0.0), seed=0).parts(0, 2**17).numpy()
        assert (parts[: 2**16] == parts[2**16 :]).mean() == pytest.approx(0.5, abs=0.02)

    @pytest.mark.parametrize("length", [1000, 65_536, 100_000])
    def test_it_does_not_depend_on_the_slices_asked_for(self, length):
        whole = Split(200_003, (0.25, 0.1), seed=3).parts(0, 200_003)
        split = Split(200_003, (0.25, 0.1), seed=3)
        starts = list(range(0, 200_003, length))
        for start in starts[::-1]:
            stop = min(start + length, 200_003)
            assert torch.equal(split.parts(start, stop), whole[start:stop])

    def test_seed_alone_decides(self):
        torch.manual_seed(1)
        first = Split(1000, (0.25, 0.1), seed=0).parts(0, 1000)
        torch.manual_seed(2)
        state = torch.get_rng_state()
        assert torch.equal(Split(1000, (0.25, 0.1), seed=0).parts(0, 1000), first)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(Split(1000, (0.25, 0.1), seed=1).parts(0, 1000), first)

    def test_what_is_held_out_is_the_same_on_every_platform(self):
        assert Split(12, (0.25, 0.25), seed=0).parts(0, 12).tolist() == [1, 0, 0, 2, 0, 0, 2, 1, 0, 1, 0, 2]


def sampled(num_rows, share, block, seed=0):
    """Rows taken from a table, each of which is its own number."""
    sample = Sample(share, seed)
    for start in range(0, num_rows, block):
        numbers = torch.arange(start, min(start + block, num_rows)).reshape(-1, 1)
        sample.see(Batch(numbers, -numbers, len(numbers), slice(start, start + len(numbers))))
    return sample


def test_sample_of_all_rows_has_each_once():
    X, y = sampled(1003, 1.0, 100).columns()
    assert X.flatten().tolist() == list(range(1003))
    assert torch.equal(y, -X)
    assert X.dtype == torch.float64


@pytest.mark.parametrize("block", [1, 7, 1000, 100_000])
def test_sample_is_spread_evenly_whatever_the_blocks(block):
    rows = sampled(100_000, 0.02, block).columns()[0].flatten()
    assert len(rows) == len(set(rows.tolist())) == pytest.approx(2000, abs=150)
    assert rows.histc(10, 0, 100_000).tolist() == pytest.approx([200] * 10, abs=50)


def test_sample_depends_on_the_seed_and_on_nothing_else():
    once = sampled(10_000, 0.1, 1000)
    before = torch.get_rng_state()
    again = sampled(10_000, 0.1, 1000)
    again.see(Batch(torch.zeros(1000, 1), torch.zeros(1000, 1), 1000, slice(0, 1000)))  # has been seen
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(once.columns()[0], again.columns()[0])
    assert not torch.equal(once.columns()[0][:900], sampled(10_000, 0.1, 1000, seed=1).columns()[0][:900])


def test_sample_of_a_block_without_rows_is_empty():
    sample = sampled(10, 1.0, 10)
    sample.see(Batch(torch.zeros(0, 1), torch.zeros(0, 1), 0, slice(10, 20)))
    assert len(sample.columns()[0]) == 10


def test_first_chunks_double_so_that_curves_show_the_descent():
    chunks = Chunks(OneWindow(Rows(torch.zeros(10_000, 1), torch.zeros(10_000, 1)), Orders(10_000, 0)), 1, steps=4000)
    assert [len(chunk.counts) for chunk in chunks] == [64, 64, 128, 256, 512, 1024, 2048, 4000, 1904]
