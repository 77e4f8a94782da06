"""Data drawn from a known linear model (d2l section 3.3).

Notebooks 1 and 2: the cells that define and call ``synthetic_data``.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from linreg_pl.data.base import DataModule
from linreg_pl.data.batch import Batch
from linreg_pl.data.parts import Part
from linreg_pl.data.sampling import seeded_generator
from linreg_pl.errors import InputError, require_not_negative
from linreg_pl.tables.sources import rows_at_once


def synthetic_data(
    weight: Tensor, bias: float, num_rows: int, noise_std: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw ``y = Xw + b + noise`` with X ~ N(0, 1) and noise ~ N(0, noise_std²).

    Everything is drawn and summed in float64 and rounded to float32 at the end, so
    that processors whose float32 functions differ in the last bit give the same data.

    Args:
        weight: shape ``(P,)``.
        bias: a number.
        num_rows: rows to draw.
        noise_std: standard deviation of the noise.
        generator: a CPU generator.

    Returns:
        X ``(num_rows, P)`` and y ``(num_rows, 1)``, float32.
    """
    X = torch.randn(num_rows, len(weight), generator=generator, dtype=torch.float64)
    noise = torch.randn(num_rows, generator=generator, dtype=torch.float64)
    y = X @ weight.double() + bias + noise_std * noise
    return X.float(), y.reshape(-1, 1).float()


class Synthetic(DataModule):
    """Rows drawn from a linear model whose coefficients are known.

    Args:
        true_weight: the weights to draw with; as many as there are features.
        true_bias: the bias to draw with.
        noise_std: standard deviation of the noise on the target.
        num_train: training rows.
        num_val: validation rows.
        num_test: test rows; predict uses them too.
        batch_size: rows in one SGD mini-batch, over all processes.
        seed: decides the data and the order of the rows.
    """

    def __init__(
        self,
        true_weight: Sequence[float] = (2.0, -3.4),
        true_bias: float = 4.2,
        noise_std: float = 0.01,
        num_train: int = 1000,
        num_val: int = 200,
        num_test: int = 200,
        batch_size: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, standardize=False)
        if not true_weight:
            raise InputError("--data.true_weight []: needs at least one weight, e.g. [2, -3.4]")
        require_not_negative("--data.noise_std", noise_std)
        self.counts = {"train": num_train, "val": num_val, "test": num_test}
        for part, count in self.counts.items():
            require_not_negative(f"--data.num_{part}", count)
        self.noise_std = noise_std
        self.truth = (list(map(float, true_weight)), float(true_bias))
        self.feature_names = [f"x{i}" for i in range(len(true_weight))]
        self.target_name = "y"
        self._drawn: dict[str, tuple[Tensor, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the rows, which can be drawn again."""
        return super().__getstate__() | {"_drawn": {}}

    def delayed_blocks(self, part: Part, rank: int = 0, world_size: int = 1) -> Iterator[Callable[[], Batch]]:
        """Yield slices of a part."""
        X, y = self.raw(part)
        size = rows_at_once(self.num_features + 1)
        for start in range(rank * size, len(y), world_size * size):
            rows = slice(start, min(start + size, len(y)))
            yield partial(Batch, X[rows], y[rows], rows=rows)

    def raw(self, part: Part) -> tuple[Tensor, Tensor]:
        """Draw a part on first use; each has a stream of its own, so no part changes another."""
        name = "test" if part == "predict" else part
        if name not in self._drawn:
            weight, bias = self.truth  # type: ignore[misc]
            generator = seeded_generator(self.seed, "synthetic", name)
            X, y = self.draw(name, torch.tensor(weight, dtype=torch.float64), bias, generator)
            if not y.isfinite().all():
                raise InputError(
                    "--data.true_weight, --data.true_bias, --data.noise_std: make targets that are too large for"
                    " float32; choose smaller ones"
                )
            self._drawn[name] = X, y
        return self._drawn[name]

    def draw(self, name: str, weight: Tensor, bias: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the part ``name``: see `synthetic_data`."""
        return synthetic_data(weight, bias, self.counts[name], self.noise_std, generator)

    def num_rows(self, part: Part) -> int:
        """Return the number of rows of a part."""
        return self.counts["test" if part == "predict" else part]

    def empty_part_hint(self, part: Part) -> str:
        """Tell which argument gives the part more rows."""
        return f"set --data.num_{'test' if part == 'predict' else part}"
