import pytest
import torch

from linreg_pl.functional.fused.scan import states


@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 17, 100, 129])
def test_states_of_a_scan(count):
    maps = torch.randn(count, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
    expected = [torch.arange(4.0, dtype=torch.float64)]
    for matrix in maps:
        expected.append(matrix @ expected[-1])
    torch.testing.assert_close(states(maps, expected[0]), torch.stack(expected), rtol=1e-10, atol=1e-12)
