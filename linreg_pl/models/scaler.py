"""The layer by which a model takes raw columns."""

import torch
from torch import Tensor, nn

from linreg_pl.functional.standardize import Scaling


class Scaler(nn.Module):
    """Standardises raw columns as the training rows were; does nothing if they were not.

    The scaling is part of ``state_dict``, so that a checkpoint is whole and needs no data. It is no buffer: a buffer
    would follow ``precision``, and means in less than float64 lose the digits of the columns.

    Attributes:
        scaling: mean and scale, float64 on the CPU.
        known: scaling of the batches that need nothing more; None if raw ones do.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        zeros = torch.zeros(num_features, dtype=torch.float64)
        self.raw = Scaling(zeros, torch.ones_like(zeros))
        self.set(None)

    def set(self, scaling: Scaling | None) -> None:
        """Standardise by ``scaling`` from now on; not at all if it is None."""
        self.scaling = scaling or self.raw
        self.known = scaling

    def forward(self, X: Tensor) -> Tensor:
        """Standardise raw features ``(n, P)``, in float64 unless there is nothing to do."""
        return X if self.known is None else self.scaling.standardize(X)

    def complete(self, X: Tensor, scaling: Scaling | None) -> Tensor:
        """Standardise features that ``scaling`` standardised already; raw ones if it is None."""
        if scaling is self.known:
            return X
        if scaling is not None:
            if all(map(torch.equal, scaling, self.scaling)):
                self.known = scaling
                return X
            X = scaling.invert(X)
        scaled: Tensor = self(X)
        return scaled

    def get_extra_state(self) -> Tensor:
        """Return mean and scale, shape ``(2, P)``."""
        return torch.stack(list(self.scaling))

    def set_extra_state(self, state: Tensor) -> None:
        """Take mean and scale, shape ``(2, P)``."""
        scaling = Scaling(*state.cpu().double().unbind())
        self.set(None if all(map(torch.equal, scaling, self.raw)) else scaling)
