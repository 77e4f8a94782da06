"""Mini-batches of the rows of an epoch, one by one and in chunks."""

import itertools

import pytest
import torch

from linreg_pl.data.batch import Rows
from linreg_pl.data.loaders import Blocks, Chunks, MiniBatches, OneWindow
from linreg_pl.data.sampling import permutation
from linreg_pl.data.spill import Spill

STRUCTURES = [(1000, 10), (1003, 10), (1003, 1), (700, 100), (7, 10), (1003, 300)]  # rows, batch size


def table_rows(num_rows):
    """Rows whose target is their number."""
    row = torch.arange(num_rows, dtype=torch.float32)[:, None]
    return Rows(torch.cat([row, -row, row, row + 1], dim=1), 2)


def in_memory(num_rows, seed=None):
    """All rows in one window."""
    return OneWindow(table_rows(num_rows), seed)


@pytest.fixture(params=["in memory", "windows"])
def windows(request, tmp_path):
    """Makes a table that comes in one window, or in windows of a few mini-batches."""
    opened = []

    def make(num_rows, batch_size, seed=5):
        if request.param == "in memory":
            return in_memory(num_rows, seed)
        rows = table_rows(num_rows)
        spill = Spill(tmp_path / f"{len(opened)}.rows", num_rows, (2, 1, 1), batch_size, seed, 2**11)
        opened.append(spill)
        spill.write([rows.numbers])
        return spill

    yield make
    for spill in opened:
        spill.close()


def mini_batches(source, batch_size, rank=0, world_size=1, epoch=0, done=0):
    num_rows = source.num_rows if isinstance(source, Spill) else len(source.rows)
    return MiniBatches(num_rows, source.windows, batch_size, rank, world_size, lambda _: (epoch, done))


def numbers(batches):
    """Row numbers of each mini-batch."""
    return [batch.y[:, 0].int().tolist() for batch in batches]


def whole_order(source, epoch):
    """Row numbers of an epoch."""
    return [int(row) for window in source.windows(epoch, 0) for row in window.rows[window.order].y]


class TestOneWindow:
    def test_orders_drawn_ahead_are_those_drawn_at_once(self):
        source = in_memory(1000, seed=3)
        for epoch in (0, 1, 2, 7, 8, 1):
            (window,) = source.windows(epoch, 0)
            assert torch.equal(window.order, permutation(1000, 3, epoch))

    def test_without_a_seed_every_epoch_has_the_rows_in_order(self):
        orders = [window.order.tolist() for epoch in (0, 3) for window in in_memory(7).windows(epoch, 0)]
        assert orders == [list(range(7))] * 2


class TestMiniBatches:
    @pytest.mark.parametrize(("num_rows", "batch_size"), [*STRUCTURES, (100, 10), (103, 1), (12, 5)])
    @pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
    def test_shares_of_all_processes_are_the_mini_batch(self, windows, num_rows, batch_size, world_size):
        source = windows(num_rows, batch_size)
        order = whole_order(source, 2)
        assert sorted(order) == list(range(num_rows))
        expected = [order[start : start + batch_size] for start in range(0, num_rows, batch_size)]
        loaders = [mini_batches(source, batch_size, rank, world_size, epoch=2) for rank in range(world_size)]
        steps = list(zip(*map(list, loaders), strict=True))  # strict: all processes take as many steps
        assert len(steps) == len(loaders[0]) == len(expected)
        for shares, batch in zip(steps, expected, strict=True):
            assert {share.num_rows for share in shares} == {len(batch)}
            parts = numbers(shares)
            assert parts == [batch[rank::world_size] for rank in range(world_size)]
            assert sorted(itertools.chain(*parts)) == sorted(batch)

    def test_in_memory_they_are_the_permutation(self):
        order = permutation(103, seed=5, epoch=2).tolist()
        assert list(itertools.chain(*numbers(mini_batches(in_memory(103, seed=5), 10, epoch=2)))) == order

    def test_a_process_may_have_no_row(self):
        (share,) = mini_batches(in_memory(3, seed=0), batch_size=10, rank=4, world_size=5)
        assert (len(share.y), share.num_rows) == (0, 3)

    def test_without_a_seed_rows_come_in_order(self):
        source = in_memory(7)
        assert numbers(mini_batches(source, 3)) == [[0, 1, 2], [3, 4, 5], [6]]
        assert numbers(mini_batches(source, 3, rank=1, world_size=2)) == [[1], [4], []]

    @pytest.mark.parametrize("done", [0, 1, 10, 11])
    def test_position_skips_what_is_done_of_rows_in_order(self, done):
        whole = numbers(mini_batches(in_memory(103), 10))
        assert numbers(mini_batches(in_memory(103), 10, epoch=4, done=done)) == whole[done:]

    @pytest.mark.parametrize("done", [0, 1, 17, 50, 99, 100, 101])
    def test_position_skips_what_is_done(self, windows, done):
        source = windows(1003, 10)
        whole = numbers(mini_batches(source, 10, 1, 2, epoch=4))
        assert numbers(mini_batches(source, 10, 1, 2, epoch=4, done=done)) == whole[done:]

    @pytest.mark.parametrize("batch_size", [1, 10, 512, 2048])  # fetched together, or each alone
    def test_nothing_is_left_at_the_end_of_an_epoch(self, windows, batch_size):
        assert list(mini_batches(windows(4096, batch_size), batch_size, done=-(-4096 // batch_size))) == []

    def test_position_is_asked_by_the_loader_when_iteration_starts(self):
        position, asked = [0, 0], []
        loader = MiniBatches(10, in_memory(10, seed=0).windows, 5, 0, 1, lambda it: asked.append(it) or tuple(position))
        assert asked == []
        first, position[0] = numbers(loader), 1
        assert first == [permutation(10, 0, 0)[:5].tolist(), permutation(10, 0, 0)[5:].tolist()]
        assert numbers(loader) == [permutation(10, 0, 1)[:5].tolist(), permutation(10, 0, 1)[5:].tolist()]
        assert asked == [loader, loader]

    def test_rows_keep_what_belongs_to_them(self, windows):
        for batch in mini_batches(windows(1003, 10), 10):
            assert torch.equal(batch.X, torch.cat([batch.y, -batch.y], dim=1))
            assert torch.equal(batch.weight, batch.y + 1)

    def test_drawing_an_order_leaves_the_global_generator_alone(self, windows):
        before = torch.get_rng_state()
        list(mini_batches(windows(100, 10, seed=0), 10))
        assert torch.equal(torch.get_rng_state(), before)


class TestChunks:
    @staticmethod
    def mini_batches(chunks):
        """This process's row numbers of each mini-batch, with its rows over all processes."""
        for chunk in chunks:
            parts = chunk.order.split(chunk.batch_size) if chunk.batch_size else [chunk.order] * len(chunk.counts)
            parts = [*parts, *[chunk.order[:0]] * (len(chunk.counts) - len(parts))]  # of which it may have no row
            for part, count in zip(parts, chunk.counts.tolist(), strict=True):
                yield chunk.rows[part].y[:, 0].int().tolist(), count

    @staticmethod
    def expected(batches):
        return [(*numbers([batch]), batch.num_rows) for batch in batches]

    @pytest.mark.parametrize(("num_rows", "batch_size"), STRUCTURES)
    @pytest.mark.parametrize("world_size", [1, 2, 3])
    @pytest.mark.parametrize(("steps", "interval"), [(1, 0), (7, 0), (7, 5), (1000, 0), (1000, 3)])
    def test_they_are_the_mini_batches(self, windows, num_rows, batch_size, world_size, steps, interval):
        source = windows(num_rows, batch_size)
        for rank in range(world_size):
            batches = mini_batches(source, batch_size, rank, world_size, epoch=2)
            assert list(self.mini_batches(Chunks(batches, steps, interval))) == self.expected(batches)

    def test_unless_shared_every_process_gets_all_rows(self, windows):
        source = windows(1003, 10)
        whole = self.expected(mini_batches(source, 10, epoch=2))
        for rank in range(2):
            chunks = Chunks(mini_batches(source, 10, rank, 2, epoch=2), 7, 5, shared=False)
            assert list(self.mini_batches(chunks)) == whole

    @pytest.mark.parametrize("done", [0, 1, 17, 50, 99, 100, 101])
    def test_position_skips_what_is_done(self, windows, done):
        source = windows(1003, 10)
        whole = self.expected(mini_batches(source, 10, epoch=4))
        chunks = Chunks(mini_batches(source, 10, epoch=4, done=done), steps=7, interval=4)
        assert list(self.mini_batches(chunks)) == whole[done:]

    def test_position_is_asked_by_the_chunks(self):
        asked = []
        chunks = Chunks(MiniBatches(10, in_memory(10).windows, 5, 0, 1, lambda it: asked.append(it) or (0, 0)), steps=7)
        list(chunks)
        assert asked == [chunks]

    @pytest.mark.parametrize("epoch", [0, 1, 2])
    def test_they_end_where_the_interval_says(self, windows, epoch):
        chunks = Chunks(mini_batches(windows(1003, 10), 10, epoch=epoch), steps=7, interval=4)
        before, ends = 101 * epoch, []
        for chunk in chunks:
            assert len(chunk.counts) <= 4
            before += len(chunk.counts)
            ends.append(before)
        assert {end for end in range(101 * epoch + 1, before + 1) if end % 4 == 0} <= set(ends)

    def test_first_ones_double_so_that_curves_show_the_descent(self):
        chunks = Chunks(mini_batches(in_memory(10_000, seed=0), 1), steps=4000)
        assert [len(chunk.counts) for chunk in chunks] == [64, 64, 128, 256, 512, 1024, 2048, 4000, 1904]


class TestBlocks:
    def test_every_pass_is_a_new_one(self):
        blocks = Blocks(lambda: iter(["a", "b"]))
        assert [list(blocks), list(blocks)] == [["a", "b"]] * 2

    def test_blocks_come_when_they_are_asked_for(self):
        made = []
        blocks = iter(Blocks(lambda: (made.append(number) or number for number in range(1000))))
        assert (next(blocks), made) == (0, [0])
