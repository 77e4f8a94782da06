import itertools
import math

import numpy as np
import pytest
import torch

from linreg_pl.functional.factors import shifted_factor, unshifted
from linreg_pl.functional.stability import (
    CurvatureMoments,
    greatest_lengths,
    largest_stable_lr,
    rescaled_lengths,
    second_moments,
    surely_stable_lr,
)
from linreg_pl.functional.standardize import Scaling, column_scaling


@pytest.fixture
def random():
    return np.random.default_rng(0)


def curvatures(batches):
    """``XᵀX/B`` of mini-batches ``(k, B, d)``."""
    return batches.swapaxes(1, 2) @ batches / batches.shape[1]


def limit(batches):
    return largest_stable_lr(*moments(curvatures(batches)))[0]


def moments(curvatures):
    """Mean and mean square of curvatures ``(k, d, d)``."""
    return torch.from_numpy(curvatures.mean(axis=0)), torch.from_numpy((curvatures @ curvatures).mean(axis=0))


def growth(batches, lr, start):
    """Mean of |δ|² after one step of SGD on the half squared error from the same δ, over all mini-batches."""
    after = start - lr * curvatures(batches) @ start
    return np.square(after).sum(axis=1).mean() / np.square(start).sum()


@pytest.mark.parametrize("scales", [[1.0], [1.0, 1.0, 1.0], [1e-4, 1.0, 1e3]], ids=str)
def test_whole_table_gives_2_over_the_largest_eigenvalue(random, scales):
    X = random.normal(size=(200, len(scales))) * scales
    assert limit(X[None]) == pytest.approx(2 / np.linalg.eigvalsh(X.T @ X / 200).max(), rel=1e-9)


def test_mini_batches_with_orthogonal_rows(random):
    X = np.zeros((2, 1, 2))
    X[0, 0, 0], X[1, 0, 1] = 3.0, 1.0  # each row changes one weight, with curvature x² = 9 or 1
    assert limit(X) == pytest.approx(2 / 9, rel=1e-12)


def test_rarely_nonzero_column_limits_as_much_as_if_never_zero():
    X = np.zeros((20_000, 1, 2))
    X[:, 0, 0], X[17, 0] = 1.0, [0.0, 3.0]
    assert limit(X) == pytest.approx(2 / 9, rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 10, 100])
@pytest.mark.parametrize("scales", [[1.0], [1.0, 1.0, 1.0], [0.5, 1.0, 2.0]], ids=str)
def test_gaussian_rows_give_the_known_limit(random, scales, size):
    variances = np.square(scales)
    batches = random.normal(size=(200_000 // size, size, len(scales))) * scales
    expected = 2 / (variances.max() * (1 + 1 / size) + variances.sum() / size)
    assert limit(batches) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("factor", "grows"), [(0.9, False), (1.1, True)])
@pytest.mark.parametrize("size", [1, 4, 16])
def test_distance_grows_above_the_limit_and_falls_below(random, size, factor, grows):
    # For rows alike in all directions the limit is sharp over many steps, not only over one.
    runs, steps, width = 40_000, 6, 3
    lr = factor * limit(random.normal(size=(50_000, size, width)))
    distance = np.tile([1.0, -0.5, 2.0], (runs, 1))
    means = []
    for _ in range(steps):
        X = random.normal(size=(runs, size, width))
        distance -= lr * np.einsum("rbd,rb->rd", X, np.einsum("rbd,rd->rb", X, distance)) / size
        means.append(np.square(distance).sum(axis=1).mean())
    assert (np.diff(means) > 0).all() == grows
    assert (np.diff(means) < 0).all() == (not grows)


def test_no_direction_grows_below_the_limit_and_one_does_above(random):
    batches = random.normal(size=(2000, 2, 3)) @ [[1.0, 0.5, 0.0], [0.0, 2.0, 0.0], [0.3, 0.0, 0.7]]
    lr = limit(batches)
    directions = random.normal(size=(300, 3))
    assert max(growth(batches, 0.99 * lr, direction) for direction in directions) < 1
    assert max(growth(batches, 1.05 * lr, direction) for direction in directions) > 1


def test_columns_of_zeros_and_copies_set_no_limit(random):
    X = random.normal(size=(100, 4, 2))
    padded = np.concatenate([X, np.zeros_like(X[..., :1])], axis=-1)
    assert limit(padded) == pytest.approx(limit(X), rel=1e-9)
    copied = np.concatenate([X, X[..., :1]], axis=-1)  # the copies move together, twice as far
    assert limit(copied) == pytest.approx(limit(X * [math.sqrt(2), 1.0]), rel=1e-9)


@pytest.mark.parametrize("worst", [0, 1, 2])
def test_direction_points_to_the_column_that_diverges_first(random, worst):
    scales = np.ones(3)
    scales[worst] = 100.0
    batches = random.normal(size=(500, 5, 3)) * scales
    _, direction = largest_stable_lr(*moments(curvatures(batches)))
    assert direction.argmax() == worst
    assert direction[worst] > 0.99
    assert direction.sum() == pytest.approx(1.0)


def test_without_curvature_any_step_is_stable():
    lr, direction = largest_stable_lr(*torch.zeros(2, 2, 2, dtype=torch.float64))
    assert (lr, direction.tolist()) == (math.inf, [0.0, 0.0])


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 50])
def test_moments_are_those_of_all_mini_batches_that_can_be_drawn(random, size, has_bias, weighted):
    X = random.normal(size=(7, 2)) * [1.0, 5.0]
    v = random.uniform(0.1, 2, size=(7, 1)) if weighted else np.ones((7, 1))
    Z = np.column_stack([X, np.ones(7)])[:, : 2 + has_bias]
    batches = [list(rows) for rows in itertools.combinations(range(7), min(size, 7))]
    every = np.array([(Z[rows] * v[rows]).T @ Z[rows] / len(rows) for rows in batches])
    sums = CurvatureMoments(2)
    for rows in (slice(0, 3), slice(3, 3), slice(3, 7)):
        sums.add(torch.from_numpy(X[rows]), torch.from_numpy(v[rows]) if weighted else None)
    for ours, theirs in zip(sums.of_mini_batches(size, has_bias), moments(every), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_rare_level_is_seen_wherever_its_rows_are(random):
    # 20 of 200,000 rows, none of them among the first: a standardised column in which they are 100 deviations out.
    X = np.zeros((200_000, 2))
    X[:, 0] = random.normal(size=200_000)
    X[-20:, 1] = 1
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    sums = CurvatureMoments(2)
    sums.add(torch.from_numpy(X))
    lr, direction = largest_stable_lr(*sums.of_mini_batches(10, has_bias=True))
    assert lr == pytest.approx(20 / 1e4, rel=0.01)  # of a row with curvature 1e4 in a mini-batch of 10
    assert direction.argmax() == 1


def random_design(random, number):
    """Rows, weights and a batch size: normal, with heavy tails, with a rare level, or with duplicates."""
    rows, columns = int(random.integers(40, 200)), int(random.integers(1, 4))
    X = random.normal(size=(rows, columns))
    if number % 4 == 1:
        X = random.standard_t(2.5, size=(rows, columns))
    elif number % 4 == 2:
        X[:, 0] = np.arange(rows) < max(1, rows // 50)
    elif number % 4 == 3:
        X = X[random.integers(0, max(3, rows // 5), rows)]
    weight = random.uniform(0.1, 3, rows) if number % 3 == 0 else np.ones(rows)
    size = int(random.choice([1, 2, 5, 10, rows // 2, rows]))
    return (X - X.mean(axis=0)) / X.std(axis=0), weight / weight.mean(), size


def test_no_lr_below_the_limit_diverges(random):
    """200 designs, 20 runs each: the distance to the optimum is smaller after each of three pairs of epochs."""
    for number in range(200):
        X, weight, size = random_design(random, number)
        sums = CurvatureMoments(X.shape[1])
        sums.add(torch.from_numpy(X), torch.from_numpy(weight[:, None]))
        lr = 0.99 * largest_stable_lr(*sums.of_mini_batches(size, has_bias=True))[0]
        Z, distance, lengths = np.column_stack([X, np.ones(len(X))]), random.normal(size=(20, X.shape[1] + 1)), []
        for _ in range(8):
            order = np.argsort(random.random((20, len(X))), axis=1)
            for start in range(0, len(X) - size + 1, size):
                z, v = Z[order[:, start : start + size]], weight[order[:, start : start + size]]
                distance -= lr * np.einsum("rb,rbd->rd", v * np.einsum("rbd,rd->rb", z, distance), z) / size
            lengths.append(np.median(np.log(np.square(distance).sum(axis=1) + 1e-300)))
        assert lengths[7] < max(lengths[1], -600), (number, lengths)


def test_what_is_surely_stable_is_never_above_the_limit(random):
    """Over 200 designs, with a penalty and without, and near it where all rows are about as long."""
    shares = []
    for number in range(200):
        X, weight, size = random_design(random, number)
        sums = CurvatureMoments(X.shape[1]).add(torch.from_numpy(X), torch.from_numpy(weight[:, None]))
        mean, square = sums.of_mini_batches(size, has_bias=True)
        penalty = torch.zeros_like(mean) if number % 5 < 2 else 3 * torch.eye(len(mean), dtype=mean.dtype)
        square = square + mean @ penalty + penalty @ mean + penalty @ penalty
        limit = largest_stable_lr(mean + penalty, square)[0]
        greatest = (weight * (np.square(X).sum(axis=1) + 1)).max()
        shares.append(surely_stable_lr(greatest, mean + penalty, size) / limit)
    assert max(shares) <= 1 + 1e-12
    assert np.median(shares) > 0.2
    signs = np.sign(random.normal(size=(5000, 3)))
    alike = CurvatureMoments(3).add(torch.from_numpy(signs))
    moments = alike.of_mini_batches(1, has_bias=True)
    assert 2 / (4 + 1.1) < surely_stable_lr(4.0, alike.mean, 1) < largest_stable_lr(*moments)[0] < 2 / 3.9


@pytest.mark.parametrize("weighted", [True, False])
def test_lengths_of_rows_standardised_anew(random, weighted):
    X, weight = 5 + random.normal(size=(3000, 4)), random.uniform(0.1, 4, size=(3000, 1))
    numbers = torch.from_numpy(np.column_stack([X, X[:, 0], *([weight] if weighted else [])]))
    greatest = greatest_lengths(numbers, 4)
    root = np.sqrt(weight) if weighted else np.ones((1, 1))
    np.testing.assert_allclose(greatest, [root.max(), (root * np.linalg.norm(X, axis=1)[:, None]).max()])
    earlier = Scaling(*torch.tensor([[0.0, 1.0, 0.0, -1.0], [1.0, 2.0, 1.0, 3.0]]).double())
    scaling = Scaling(*torch.tensor([[1.0, 3.0, 5.0, 4.0], [2.0, 2.0, 0.9, 3.0]]).double())
    anew = numbers.clone()
    anew[:, :4] = scaling.standardize(earlier.invert(numbers[:, :4]))
    actual, bound = greatest_lengths(anew, 4), rescaled_lengths(greatest, earlier, scaling)
    assert (actual <= bound).all()
    assert (bound < 3 * actual).all()
    np.testing.assert_allclose(rescaled_lengths(greatest, earlier, earlier), greatest)
    assert greatest_lengths(numbers[:0], 4).tolist() == [0, 0]


@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_first_moments_follow_from_the_factor(random, standardised, weighted):
    mean = np.array([0.0, 1e8, -3.0]) if standardised else np.array([0.0, 2.0, -3.0])
    X, y = mean + random.normal(size=(500, 3)) * [1.0, 1.0, 1e-3], random.normal(size=(500, 1))
    weight = torch.from_numpy(random.uniform(0.5, 2, size=(500, 1))) if weighted else None
    factor = shifted_factor(torch.from_numpy(X), torch.from_numpy(y), weight)
    scaling = column_scaling(unshifted(factor)) if standardised else None
    rows = torch.from_numpy(X) if scaling is None else scaling.standardize(torch.from_numpy(X))
    by_rows = CurvatureMoments(3).add(rows, weight)
    by_factor = CurvatureMoments(3, second_moments(factor, scaling)).add(rows, weight)
    for ours, theirs in zip(by_factor.of_mini_batches(7, True), by_rows.of_mini_batches(7, True), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize(("alike", "within"), [(0.5, 1e-6), (1e-3, 1e-9)])
def test_products_are_of_float32_where_that_does_not_count(random, alike, within):
    columns = random.normal(size=(20_000, 2))
    rows = torch.from_numpy(np.column_stack([columns[:, 0], columns[:, 0] + alike * columns[:, 1]])).float()
    factor = shifted_factor(rows, torch.zeros(len(rows), 1))
    quick = CurvatureMoments(2, second_moments(factor)).add(rows)
    found, expected = (
        largest_stable_lr(*moments.of_mini_batches(10, True))[0]
        for moments in (quick, CurvatureMoments(2).add(rows.double()))
    )
    assert quick.well_conditioned == (alike == 0.5)
    assert found == pytest.approx(expected, rel=within)
