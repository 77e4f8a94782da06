"""What holds for every table, order and number of processes, against numpy."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyarrow import csv, feather, parquet

from linreg_pl.data.batch import Rows
from linreg_pl.data.loaders import Chunks, MiniBatches, OneWindow
from linreg_pl.data.sampling import Split, permutation
from linreg_pl.data.spill import Spill
from linreg_pl.data.table import Table
from linreg_pl.errors import InputError
from linreg_pl.functional import column_scaling, merge_factors, solve, triangular_factor
from linreg_pl.functional.fused.steps import sgd_steps

KINDS = ("float64", "float32", "int64", "int8", "uint16", "bool")
LEVELS = ("Oslo", "Köln, am Rhein", 'the "x"', "a=b", " z ")
seeds = st.integers(0, 2**32 - 1)


@st.composite
def tables(draw):
    """A table with numbers of some types, levels, weights and missing values, and how it is read."""
    rows = draw(st.integers(1, 60))
    random = np.random.default_rng(draw(seeds))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    columns = {f"x{i}": random.normal(scale=9, size=rows) for i in range(len(kinds))}
    columns = {
        name: (values > 0 if kind == "bool" else np.abs(values) if kind == "uint16" else values).astype(kind)
        for (name, values), kind in zip(columns.items(), kinds, strict=True)
    }
    columns["y"] = random.normal(size=rows)
    arguments = {"target": "y", "val_fraction": draw(st.sampled_from([0.0, 0.0, 0.3])), "seed": draw(st.integers(0, 9))}
    if draw(st.booleans()):
        columns["w"], arguments["weights"] = random.integers(1, 5, rows).astype(float), "w"
    absent = np.zeros((rows, len(columns)), bool)
    if draw(st.booleans()):
        absent = random.random(absent.shape) < 0.1
        absent[0] = False  # CSV knows no type of a column without values
        arguments["missing"] = "drop"
    table = pa.table({name: pa.array(column, mask=absent[:, i]) for i, (name, column) in enumerate(columns.items())})
    if draw(st.booleans()):
        levels = draw(st.permutations(LEVELS))[: draw(st.integers(2, 5))]
        city = pa.array([levels[code] for code in random.integers(len(levels), size=rows)])
        table = table.append_column("city", city.dictionary_encode() if draw(st.booleans()) else city)
        arguments |= {"categorical": ["city"], "levels": {"city": list(levels)}}
    return table, arguments


def stored(folder, table, suffix, size=65536):
    path = Path(folder, f"t.{suffix}")
    if suffix == "parquet":
        parquet.write_table(table, path, row_group_size=size)
    elif suffix == "feather":
        feather.write_feather(table, path, chunksize=size)
    else:
        wide = {pa.float32(): pa.float64()}  # in which CSV is read
        plain = [column.cast(wide.get(column.type, column.type)) for column in table.columns]
        plain = [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in plain]
        csv.write_csv(pa.table(plain, table.column_names), path)
    return str(path)


def expected_rows(table, arguments, part):
    """X, y and weights of a part, by numpy."""
    frame = table.to_pandas()
    names = [name for name in table.column_names if name.startswith("x")]
    X = frame[names].to_numpy(np.float64)
    for level in arguments.get("levels", {"city": []})["city"][1:]:
        X = np.column_stack([X, frame["city"] == level])
    others = frame[["y", *(["w"] if "weights" in arguments else [])]].to_numpy(np.float64)
    whole = ~np.isnan(np.column_stack([X, others])).any(axis=1)
    fractions = (arguments["val_fraction"], 0.0)
    mine = Split(len(frame), fractions, arguments["seed"]).parts(0, len(frame)).numpy() == part
    training = others[whole & (Split(len(frame), fractions, arguments["seed"]).parts(0, len(frame)).numpy() == 0)]
    kept = whole & mine
    weighted = others.shape[1] == 2 and len(training)
    weight = others[kept, 1] / training[:, 1].mean() if weighted else np.ones(kept.sum())
    return X[kept], others[kept, 0], weight


@given(tables(), st.sampled_from(["parquet", "feather", "csv"]), st.integers(1, 70), st.integers(1, 4))
def test_a_table_is_its_rows_and_its_optimum_is_numpys(drawn, suffix, size, world_size):
    table, arguments = drawn
    X, y, weight = expected_rows(table, arguments, 0)
    assume(len(y) > X.shape[1] + 1)
    with tempfile.TemporaryDirectory() as folder:
        data = Table(stored(folder, table, suffix, size), standardize=False, **arguments)
        data.setup("fit")
        shares = [list(data.delayed_blocks("train", rank, world_size)) for rank in range(world_size)]
        batches = sorted((make() for make in itertools.chain(*shares)), key=lambda batch: batch.rows.start)
        for part, number in (("val", 1),) if arguments["val_fraction"] else ():
            held_out = expected_rows(table, arguments, number)
            np.testing.assert_array_equal(data.raw(part)[0].double(), held_out[0])
        R = merge_factors(torch.stack([triangular_factor(*make()) for share in shares for make in share]))
    np.testing.assert_array_equal(torch.cat([batch.X for batch in batches]).double(), X)
    np.testing.assert_array_equal(torch.cat([batch.y for batch in batches])[:, 0].double(), y)
    if "weights" in arguments:
        np.testing.assert_allclose(torch.cat([batch.weight for batch in batches])[:, 0], weight, rtol=1e-6)
    scaling, mean = column_scaling(R), np.average(X, axis=0, weights=weight)
    np.testing.assert_allclose(scaling.mean, mean, rtol=1e-6, atol=1e-6)
    variance = np.average((X - mean) ** 2, axis=0, weights=weight)
    np.testing.assert_allclose(scaling.scale**2, variance, rtol=1e-5, atol=1e-5)
    Z = np.column_stack([X, np.ones(len(X))]) * np.sqrt(weight)[:, None]
    assume(np.linalg.matrix_rank(Z) == Z.shape[1] and np.linalg.cond(Z) < 1e5)
    solution = solve(R)
    optimum = np.linalg.lstsq(Z, y * np.sqrt(weight), rcond=None)[0]
    np.testing.assert_allclose([*solution.weight, solution.bias], optimum, rtol=1e-5, atol=1e-6)


@given(tables(), st.integers(1, 70))
def test_formats_are_equal(drawn, size):
    table, arguments = drawn
    seen = []
    for suffix in ("parquet", "feather", "csv"):
        with tempfile.TemporaryDirectory() as folder:
            path = stored(folder, table, suffix, size)
            try:
                data = Table(path, standardize=False, **arguments)
                data.setup("fit")
                seen.append([value.double().tolist() for value in data.raw("train")])
            except InputError as error:
                seen.append(str(error).replace(path, "t"))
    assert seen[1:] == seen[:1] * 2


@given(
    st.integers(1, 300),
    st.integers(1, 90),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(0, 12),
    st.integers(0, 5),
    st.data(),
)
def test_every_row_comes_once_in_every_epoch(num_rows, batch_size, world_size, steps, interval, epoch, data):
    order = permutation(num_rows, 7, epoch).tolist()
    assert sorted(order) == list(range(num_rows))
    batches = [order[start : start + batch_size] for start in range(0, num_rows, batch_size)]
    done = data.draw(st.integers(0, len(batches)))
    row = torch.arange(float(num_rows))[:, None]
    windows = OneWindow(Rows(torch.cat([row, row], dim=1), 1), 7).windows
    loaders = [
        MiniBatches(num_rows, windows, batch_size, rank, world_size, lambda _: (epoch, done))
        for rank in range(world_size)
    ]
    for shares, batch in zip(zip(*loaders, strict=True), batches[done:], strict=True):
        assert [share.y[:, 0].tolist() for share in shares] == [batch[rank::world_size] for rank in range(world_size)]
        assert {share.num_rows for share in shares} == {len(batch)}
    for rank, loader in enumerate(loaders):
        chunks = list(Chunks(loader, steps, interval))
        taken = [number for chunk in chunks for number in chunk.order.tolist()]
        assert taken == [number for batch in batches[done:] for number in batch[rank::world_size]]
        assert [count for chunk in chunks for count in chunk.counts.tolist()] == [
            len(batch) for batch in batches[done:]
        ]
        assert all(len(chunk.counts) <= steps for chunk in chunks)


@given(st.integers(1, 400), st.integers(1, 6), st.integers(1, 60), st.integers(1, 2**14), st.integers(0, 3), st.data())
def test_a_file_of_rows_gives_every_row_once(num_rows, columns, batch_size, window_bytes, epoch, data):
    row = torch.arange(float(num_rows))[:, None]
    with tempfile.TemporaryDirectory() as folder:
        spill = Spill(Path(folder, "rows"), num_rows, (columns, 1), batch_size, 3, window_bytes)
        sizes = itertools.cycle([data.draw(st.integers(1, 50)), 7, 1])
        starts = list(itertools.takewhile(lambda start: start < num_rows, itertools.accumulate(sizes, initial=0)))
        parts = [slice(a, b) for a, b in zip(starts, [*starts[1:], num_rows], strict=True)]
        spill.write(row.expand(-1, columns + 1)[part].contiguous() for part in parts)
        windows = list(spill.windows(epoch, 0))
        seen = torch.cat([window.rows[window.order].y[:, 0] for window in windows])
        assert sorted(seen.tolist()) == list(range(num_rows))
        assert all((window.rows.numbers[:, :1] == window.rows.numbers).all() for window in windows)
        assert all(len(window.order) % batch_size == 0 for window in windows[:-1])


@given(st.integers(0, 3000), st.floats(0, 0.5), st.floats(0, 0.49), st.integers(0, 99), st.data())
def test_parts_are_disjoint_and_have_their_size(num_rows, val, test, seed, data):
    split = Split(num_rows, (val, test), seed)
    parts = split.parts(0, num_rows).numpy() if num_rows else np.empty(0, np.uint8)
    assert np.bincount(parts, minlength=3)[1:].tolist() == [round(val * num_rows), round(test * num_rows)]
    if num_rows:
        start = data.draw(st.integers(0, num_rows - 1))
        stop = data.draw(st.integers(start + 1, num_rows))
        np.testing.assert_array_equal(split.parts(start, stop), parts[start:stop])


floats = st.floats(-3, 3, width=32, allow_subnormal=False)


@given(
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 50),
    st.booleans(),
    st.booleans(),
    floats,
    st.integers(1, 7),
    st.data(),
)
def test_fused_steps_are_plain_ones(num_rows, columns, batch_size, has_bias, weighted, decay, steps, data):
    X, y = (data.draw(arrays(np.float32, (num_rows, width), elements=floats)) for width in (columns, 1))
    weight = data.draw(arrays(np.float32, (num_rows, 1), elements=st.floats(0, 2, width=32))) if weighted else None
    order, decay, lr = permutation(num_rows, 1, 0), abs(decay) / 10, 0.01
    expected, losses = np.zeros(columns + 1), []
    for rows in np.split(order.numpy(), range(batch_size, num_rows, batch_size)):
        Z = np.column_stack([X[rows], np.full(len(rows), float(has_bias))]).astype(np.float64)
        residual = Z @ expected - y[rows, 0]
        each = weight[rows, 0] if weighted else np.ones(len(rows))
        losses.append((each * residual**2).mean() / 2 + decay / 2 * (expected[:-1] ** 2).sum())
        expected -= lr * (Z.T @ (each * residual) / len(rows) + decay * np.append(expected[:-1], 0))
    table = torch.from_numpy(np.hstack([X, y, weight] if weighted else [X, y]))
    for way in ("loop", "scan"):
        theta, found = torch.zeros(columns + 1), []
        for part in order.split(steps * batch_size):
            arguments = (batch_size, lr, decay, has_bias)
            found += sgd_steps(theta, table, part, *arguments, way=way).tolist()
        np.testing.assert_allclose(theta, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found, losses, rtol=1e-4, atol=1e-5)
