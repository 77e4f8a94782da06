"""Synthetic rows with what can go wrong with rows (the exercises of d2l sections 3.1 and 3.4)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from linreg_pl.data.synthetic import Synthetic
from linreg_pl.errors import InputError, require_not_negative

OUTLIER = 10_000.0


class Perturbed(Synthetic):
    """`Synthetic`, perturbed; without any of these arguments it is the same rows.

    Args:
        true_weight, true_bias, noise_std, num_train, num_val, num_test, batch_size, seed: see `Synthetic`.
        noise: distribution of the noise on the target; its standard deviation is ``noise_std`` either way.
        noise_power: the noise is multiplied by ``|x0|`` to this power, so that its variance is unequal unless it is 0.
        feature_noise: standard deviation of noise that is added to the features once the targets are made.
        correlation: between any two features; at 1 they are one column, and X does not have full rank.
        outliers: the first so many training rows have the target 10,000.
        order: of the training rows: shuffled anew each epoch, always as drawn, or always by rising noise on
            the target, which misleads SGD as far as an order can.
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
        noise: Literal["normal", "laplace"] = "normal",
        noise_power: float = 0.0,
        feature_noise: float = 0.0,
        correlation: float = 0.0,
        outliers: int = 0,
        order: Literal["shuffled", "drawn", "malicious"] = "shuffled",
    ) -> None:
        super().__init__(true_weight, true_bias, noise_std, num_train, num_val, num_test, batch_size, seed)
        require_not_negative("--data.noise_power", noise_power)
        require_not_negative("--data.feature_noise", feature_noise)
        require_not_negative("--data.outliers", outliers)
        if not 0 <= correlation <= 1:
            raise InputError(f"--data.correlation {correlation}: must lie between 0 and 1")
        self.noise = noise
        self.noise_power = noise_power
        self.feature_noise = feature_noise
        self.correlation = correlation
        self.outliers = outliers
        self.order = order
        if order != "shuffled":
            self.order_seed = None

    def draw(self, name: str, weight: Tensor, bias: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the part ``name``; only training rows have outliers and an order."""
        n, P = self.counts[name], len(weight)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        X, noise = normal(n, P), self.noise_std * normal(n)
        if self.noise == "laplace":  # the difference of two exponential variables, whose variances are 1
            two = torch.empty(2, n, dtype=torch.float64).exponential_(generator=generator)
            noise = self.noise_std / math.sqrt(2) * (two[0] - two[1])
        X = math.sqrt(1 - self.correlation) * X + math.sqrt(self.correlation) * normal(n, 1)  # what they share
        if self.noise_power:
            noise *= X[:, 0].abs() ** self.noise_power
        y = X @ weight + bias + noise
        X = X + self.feature_noise * normal(n, P)
        if name == "train":
            y[: self.outliers] = OUTLIER
            if self.order == "malicious":
                rows = noise.argsort()
                X, y = X[rows], y[rows]
        return X.float(), y.reshape(-1, 1).float()
