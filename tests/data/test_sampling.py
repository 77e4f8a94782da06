import numpy as np
import pytest
import torch

from linreg_pl.data.batch import Batch
from linreg_pl.data.sampling import Sample, Split, permutation, seeded_generator


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
        sample.add(Batch(numbers, -numbers, rows=slice(start, start + len(numbers))))
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
    again.add(Batch(torch.zeros(1000, 1), torch.zeros(1000, 1), rows=slice(0, 1000)))  # has been seen
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(once.columns()[0], again.columns()[0])
    assert not torch.equal(once.columns()[0][:900], sampled(10_000, 0.1, 1000, seed=1).columns()[0][:900])


def test_sample_of_a_block_without_rows_is_empty():
    sample = sampled(10, 1.0, 10)
    sample.add(Batch(torch.zeros(0, 1), torch.zeros(0, 1), rows=slice(10, 20)))
    assert len(sample.columns()[0]) == 10
