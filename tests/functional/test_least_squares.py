import functools
import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from linreg_pl.functional.factors import merge_factors, triangular_factor, triangularize
from linreg_pl.functional.least_squares import (
    RankDeficientError,
    column_std,
    condition_number,
    matrix_rank,
    num_rows,
    profile,
    residual_sum_of_squares,
    solve,
    total_sum_of_squares,
    unique_solution,
)

ROWS, COLUMNS = 60, 4


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def X(random):  # noqa: N802
    return random.normal(size=(ROWS, COLUMNS))


@pytest.fixture
def y(X, random):
    return target(X, random)


def target(X, random):
    return X @ np.arange(1.0, X.shape[1] + 1) - 2.5 + random.normal(size=len(X))


def factor(X, y):
    return triangular_factor(torch.from_numpy(X), torch.from_numpy(y).reshape(-1, 1))


def factor_in_blocks(X, y, cuts):
    return [factor(*block) for block in zip(np.split(X, cuts), np.split(y, cuts), strict=True)]


def with_ones(X):
    return np.column_stack([np.ones(len(X)), X])


def lstsq(X, y):
    """Bias first."""
    return np.linalg.lstsq(with_ones(X), y)[0]


def assert_solves(R, X, y, rtol=1e-12):
    solution = solve(R)
    np.testing.assert_allclose(solution.theta, lstsq(X, y), rtol=rtol)
    assert (solution.bias, solution.num_rows) == (solution.theta[0], len(y))
    np.testing.assert_array_equal(solution.weight, solution.theta[1:])


def test_factor_is_that_of_scipy(X, y):
    R = factor(X, y)
    (expected,) = scipy.linalg.qr(np.column_stack([with_ones(X), y]), mode="r")
    assert (R.dtype, R.shape) == (torch.float64, (COLUMNS + 2, COLUMNS + 2))
    np.testing.assert_array_equal(R, R.triu())
    np.testing.assert_allclose(R.abs(), np.abs(expected[: COLUMNS + 2]), rtol=1e-11, atol=1e-13)  # rows may change sign


def test_triangularize_keeps_all_lengths(random):
    A = random.normal(size=(3, 5))  # wide: padded with rows of zeros
    R = triangularize(torch.from_numpy(A))
    assert R.shape == (5, 5)
    np.testing.assert_allclose(R.T @ R, A.T @ A, atol=1e-14)


def test_solution_is_that_of_numpy(X, y):
    assert_solves(factor(X, y), X, y)


@pytest.mark.parametrize("size", [1, 2, 7, 59, 60])
def test_blocks_give_the_whole(X, y, size):
    factors = factor_in_blocks(X, y, range(size, ROWS, size))
    assert_solves(merge_factors(torch.stack(factors)), X, y)
    one_by_one = functools.reduce(lambda R, block: merge_factors(torch.stack([R, block])), factors)
    assert_solves(one_by_one, X, y)


def test_merge_order_does_not_matter(X, y):
    for order in itertools.permutations(factor_in_blocks(X, y, [3, 20, 41])):
        pairs = [merge_factors(torch.stack(order[:2])), merge_factors(torch.stack(order[2:]))]
        assert_solves(merge_factors(torch.stack(pairs)), X, y)


def test_empty_blocks_change_nothing(X, y):
    assert_solves(merge_factors(torch.stack(factor_in_blocks(X, y, [0, 0, 30, 30, 60]))), X, y)


def test_blocks_with_fewer_rows_than_columns(X, y):
    R = factor(X[:3], y[:3])
    A = np.column_stack([with_ones(X[:3]), y[:3]])
    assert R.shape == (COLUMNS + 2, COLUMNS + 2)
    np.testing.assert_allclose(R.T @ R, A.T @ A, atol=1e-13)
    assert (num_rows(R), unique_solution(R, bias=True)) == (3, None)
    assert_solves(merge_factors(torch.stack([R, factor(X[3:], y[3:])])), X, y)


def test_as_many_rows_as_coefficients_are_met_exactly(X, y):
    few = COLUMNS + 1
    solution = unique_solution(factor(X[:few], y[:few]), bias=True)
    np.testing.assert_allclose(with_ones(X[:few]) @ solution.theta.numpy(), y[:few], rtol=1e-11)


def test_float32_rows_are_computed_in_float64(X, y):
    X, y = X.astype(np.float32), y.astype(np.float32)
    assert_solves(factor(X, y), X.astype(np.float64), y.astype(np.float64))


def test_large_means_keep_their_digits(random):
    # at 1e8 whole numbers are exact, so the reference can be taken about the mean
    X = random.integers(-1000, 1000, size=(200, 3)).astype(np.float64)
    y = X @ [1.0, -2.0, 3.0] + random.normal(size=200)
    weight = np.linalg.lstsq(X - X.mean(axis=0), y - y.mean())[0]
    blocks = factor_in_blocks(X + 1e8, y, [50, 51, 120])
    solution = solve(merge_factors(torch.stack(blocks)))
    np.testing.assert_allclose(solution.weight, weight, rtol=1e-9)
    np.testing.assert_allclose(solution.bias, y.mean() - (X.mean(axis=0) + 1e8) @ weight, rtol=1e-9)


def test_large_target_mean_keeps_the_residuals(X, y):
    y = np.round(y * 2**10) / 2**10  # so that adding 1e8 rounds nothing
    expected = np.square(y - with_ones(X) @ lstsq(X, y)).sum()
    R = merge_factors(torch.stack(factor_in_blocks(X, y + 1e8, [7, 30])))
    assert solve(R).factor[-1, -1].item() ** 2 == pytest.approx(expected, rel=1e-6)  # 1e8 leaves 8 digits


def test_column_scales_cost_no_digits(random):
    scales = 10.0 ** np.arange(-8, 9, 4)
    X = random.normal(size=(100, len(scales)))
    y = target(X, random)
    solution = solve(merge_factors(torch.stack(factor_in_blocks(X * scales, y, [33, 66]))))
    bias, *weight = lstsq(X, y)
    np.testing.assert_allclose(solution.weight.numpy() * scales, weight, rtol=1e-12)
    np.testing.assert_allclose(solution.bias, bias, rtol=1e-12)
    assert matrix_rank(solution.factor) == len(scales) + 1


def test_without_bias(X, y):
    R = factor(X, y)
    solution = solve(R, bias=False)
    np.testing.assert_allclose(solution.weight, np.linalg.lstsq(X, y)[0], rtol=1e-12)
    assert (solution.bias.item(), solution.has_bias, solution.num_rows) == (0.0, False, ROWS)
    np.testing.assert_array_equal(solution.theta, solution.weight)
    (expected,) = scipy.linalg.qr(np.column_stack([X, y]), mode="r")
    np.testing.assert_allclose(solution.factor.abs(), np.abs(expected[: COLUMNS + 1]), atol=1e-13)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ridge", [1e-3, 1.0, 1e3])
def test_ridge_is_that_of_scikit_learn(X, y, ridge, bias):
    expected = Ridge(ridge, fit_intercept=bias, solver="svd").fit(X, y)
    solution = solve(factor(X, y), bias, ridge)
    np.testing.assert_allclose(solution.weight, expected.coef_, rtol=1e-11)
    np.testing.assert_allclose(solution.bias, expected.intercept_, rtol=1e-11)
    assert solution.penalty == ridge


def test_ridge_of_standardised_columns_is_that_of_scikit_learn(X, y):
    X = X * [1.0, 1e-3, 1e3, 5.0] + [0.0, 2.0, -3e4, 1.0]
    scaler = StandardScaler().fit(X)
    expected = Ridge(10.0, solver="svd").fit(scaler.transform(X), y)
    R = factor(X, y)
    solution = solve(R, ridge=10.0, scale=column_std(R))
    np.testing.assert_allclose(solution.weight, expected.coef_ / scaler.scale_, rtol=1e-10)
    np.testing.assert_allclose(
        solution.bias.item() + scaler.mean_ @ solution.weight.numpy(), expected.intercept_, rtol=1e-10
    )


def test_ridge_makes_any_columns_solvable(X, y):
    X = np.column_stack([X, X[:, 0], np.zeros(ROWS)])[:4]  # more columns than rows, a duplicate and one of zeros
    solution = solve(factor(X, y[:4]), ridge=0.1)
    np.testing.assert_allclose(solution.weight, Ridge(0.1, solver="svd").fit(X, y[:4]).coef_, rtol=1e-11, atol=1e-14)


def test_penalty_leaves_the_factor_alone(X, y):
    np.testing.assert_array_equal(solve(factor(X, y), ridge=3.0).factor, factor(X, y))


DEPENDENT = {
    "duplicate": (lambda X: X[:, 1], [1, 4], [1, 4]),
    "multiple": (lambda X: -1e6 * X[:, 1], [1, 4], [1, 4]),
    "constant": (lambda X: np.full(ROWS, 7.0), [-1, 4], []),
    "sum of two others": (lambda X: X[:, 0] + X[:, 2], [0, 2, 4], [0, 2, 4]),
    "mostly one other": (lambda X: X[:, 0] - 1e-4 * X[:, 2], [0, 2, 4], [0, 2, 4]),
    "shifted": (lambda X: X[:, 3] + 5.0, [-1, 3, 4], []),
    "zero": (lambda X: np.zeros(ROWS), [4], [4]),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_dependent_columns_are_named(X, y, name):
    make, with_bias, without_bias = DEPENDENT[name]
    R = merge_factors(torch.stack(factor_in_blocks(np.column_stack([X, make(X)]), y, [11, 30])))
    with pytest.raises(RankDeficientError) as error:
        solve(R)
    assert list(map(sorted, error.value.dependencies)) == [with_bias]
    assert matrix_rank(R) == COLUMNS + 1
    assert unique_solution(R, bias=True) is None
    if without_bias:
        with pytest.raises(RankDeficientError) as error:
            solve(R, bias=False)
        assert list(map(sorted, error.value.dependencies)) == [without_bias]
    else:
        assert matrix_rank(solve(R, bias=False).factor) == COLUMNS + 1


def test_two_dependencies_are_named_apart(X, y):
    X = np.column_stack([X, X[:, 1], 2 * X[:, 2] - X[:, 3]])
    with pytest.raises(RankDeficientError) as error:
        solve(factor(X, y))
    assert error.value.dependencies == [[5, 2, 3], [4, 1]]
    assert unique_solution(factor(np.delete(X, [4, 5], axis=1), y), bias=True) is not None


def test_dependence_beside_large_means_is_named_alone(X, y):
    X = np.round(X * 2**20) / 2**20 + [1e8, 1e8, 0, 0]  # rounds nothing, so that the copy is one to the last bit
    with pytest.raises(RankDeficientError) as error:
        solve(factor(np.column_stack([X, X[:, 2]]), y))
    assert error.value.dependencies == [[4, 2]]


def shortest(X, y):
    """Weights and bias by the pseudo-inverse of the centred columns."""
    weight = np.linalg.pinv(X - X.mean(axis=0)) @ (y - y.mean())
    return weight, y.mean() - X.mean(axis=0) @ weight


@pytest.mark.parametrize("name", DEPENDENT)
def test_minimum_norm_of_dependent_columns(X, y, name):
    X = np.column_stack([X, DEPENDENT[name][0](X)])
    solution = solve(factor(X, y), minimum_norm=True)
    weight, bias = shortest(X, y)
    np.testing.assert_allclose(solution.weight, weight, rtol=1e-9, atol=1e-10)
    assert solution.bias.item() == pytest.approx(bias, rel=1e-9)
    without = solve(factor(X, y), bias=False, minimum_norm=True)
    np.testing.assert_allclose(without.weight, np.linalg.pinv(X) @ y, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rows", [1, 3, COLUMNS])
def test_minimum_norm_of_too_few_rows(X, y, rows):
    solution = solve(factor(X[:rows], y[:rows]), minimum_norm=True)
    weight, bias = shortest(X[:rows], y[:rows])
    np.testing.assert_allclose([*solution.weight, solution.bias], [*weight, bias], rtol=1e-9, atol=1e-12)


def test_minimum_norm_in_units_far_apart(X, y):
    prediction = with_ones(X) @ lstsq(X, y)
    X = np.column_stack([X, X[:, 0] - X[:, 3]]) * [1.0, 1e6, 1e-4, 1.0, 1.0]
    solution = solve(factor(X, y), minimum_norm=True)
    np.testing.assert_allclose(X @ solution.weight.numpy() + solution.bias.item(), prediction, rtol=1e-9)
    changes_nothing = np.array([1.0, 0, 0, -1, -1])
    assert abs(changes_nothing @ solution.weight.numpy()) < 1e-6


def test_minimum_norm_changes_no_unique_solution(X, y):
    for found, expected in zip(solve(factor(X, y), minimum_norm=True)[:2], solve(factor(X, y))[:2], strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("offset", [1e-7, 1e-10])
def test_nearly_dependent_columns_are_not_refused(X, y, offset, random):
    nearly = X[:, 0] + offset * random.normal(size=ROWS)
    R = factor(np.column_stack([X, nearly]), y)
    assert matrix_rank(R) == COLUMNS + 2
    assert unique_solution(R, bias=True) is not None


def test_condition_number_is_that_of_numpy(X, y):
    X = X * [1.0, 10.0, 1e3, 0.1] + 3.0
    assert condition_number(factor(X, y)) == pytest.approx(np.linalg.cond(with_ones(X)), rel=1e-11)
    assert condition_number(solve(factor(X, y), bias=False).factor) == pytest.approx(np.linalg.cond(X), rel=1e-11)


def test_matrix_rank_is_that_of_numpy(X, y):
    X = np.column_stack([X, X[:, :2] @ [[1.0, 2.0], [3.0, 4.0]]])
    assert matrix_rank(factor(X, y)) == np.linalg.matrix_rank(with_ones(X)) == COLUMNS + 1


def test_residual_sum_of_squares_of_any_coefficients(X, y, random):
    R = merge_factors(torch.stack(factor_in_blocks(X, y, [25])))
    for weight, bias in [(random.normal(size=COLUMNS), 0.7), (lstsq(X, y)[1:], lstsq(X, y)[0])]:
        expected = np.square(y - X @ weight - bias).sum()
        actual = residual_sum_of_squares(R, torch.from_numpy(weight), torch.tensor(bias, dtype=torch.float64))
        assert actual == pytest.approx(expected, rel=1e-12)


def test_total_sum_of_squares(X, y):
    R = factor(X, y)
    assert total_sum_of_squares(R) == pytest.approx(np.square(y - y.mean()).sum(), rel=1e-12)
    assert total_sum_of_squares(R, centred=False) == pytest.approx(np.square(y).sum(), rel=1e-12)


def test_column_std_is_that_of_numpy(X, y):
    X = X * [1e-3, 1.0, 5.0, 1e4] + [0.0, 1e3, -7.0, 0.0]
    np.testing.assert_allclose(column_std(factor(X, y)), X.std(axis=0), rtol=1e-9)  # 1e3 / 1 costs three digits


@pytest.mark.parametrize("count", [1, 2, 1000, 10**6 + 3, 2**40 + 1])
def test_rows_are_counted_over_any_number_of_merges(count):
    halves = [torch.zeros(3, 3, dtype=torch.float64) for _ in range(2)]
    for half, rows in zip(halves, (count // 2, count - count // 2), strict=True):
        half[0, 0] = rows**0.5
    assert num_rows(merge_factors(torch.stack(halves))) == count


@pytest.mark.parametrize(("columns", "bias"), [([1, 3], True), ([4, 0], True), ([2], True), ([1, 3], False)])
def test_profile_is_the_least_sum_with_some_coefficients_held(X, y, columns, bias):
    A = np.column_stack([np.ones(ROWS), X])
    held = np.arange(1.0, len(columns) + 1)
    others = [column for column in range(int(not bias), COLUMNS + 1) if column not in columns]
    target = np.asarray(y).reshape(-1) - A[:, columns] @ held
    residual = target - A[:, others] @ np.linalg.lstsq(A[:, others], target)[0]
    G = profile(triangular_factor(torch.tensor(X), torch.tensor(y).reshape(-1, 1)), columns, bias).numpy()
    np.testing.assert_allclose(np.square(G @ [*held, -1]).sum(), np.square(residual).sum(), rtol=1e-12)
