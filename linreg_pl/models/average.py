"""The average of SGD's iterates, which comes to rest where a constant step keeps SGD itself moving."""

import torch
from torch import Tensor, nn

from linreg_pl.functional.regression import average_share


class Average(nn.Module):
    """Polynomial-decay average of a parameter vector over the steps of a fit, by `average_share`.

    For least squares, averages with a constant step reach the optimal rate (Bach and Moulines 2013). It is part of
    ``state_dict``, in float64.

    Attributes:
        steps: number of steps averaged over.
        theta: weights, then bias, shape ``(P + 1,)``; on the device of the parameters.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.steps = 0
        self.theta = torch.zeros(num_features + 1, dtype=torch.float64)

    @torch.no_grad()
    def add(self, *parameters: Tensor | None) -> None:
        """Add the parameters after a step: the weights, and the bias if there is one."""
        values = [part.detach().reshape(-1).double() for part in parameters if part is not None]
        self.theta = self.theta.to(values[0].device)
        self.steps += 1
        self.theta[: sum(map(len, values))].lerp_(torch.cat(values), average_share(self.steps))

    def add_steps(self, thetas: Tensor) -> None:
        """Add the parameters after each of some steps, float64, shape ``(K, P + 1)``."""
        weights, kept = [], 1.0
        for step in range(self.steps + len(thetas), self.steps, -1):  # how much of each the later steps leave
            weights.append(kept * average_share(step))
            kept -= weights[-1]
        self.steps += len(thetas)
        added = thetas.new_tensor(weights[::-1]) @ thetas
        self.theta = kept * self.theta.to(added) + added

    def get_extra_state(self) -> Tensor:
        """Return the average, and then the number of steps, shape ``(P + 2,)``."""
        return torch.cat([self.theta.cpu(), torch.tensor([self.steps], dtype=torch.float64)])

    def set_extra_state(self, state: Tensor) -> None:
        """Take the average and the number of steps."""
        self.theta, self.steps = state[:-1].clone(), int(state[-1])
