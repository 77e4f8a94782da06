import time
from pathlib import Path

import pytest
import torch

from linreg_pl.data.threads import parallel_map


class TestParallelMap:
    def test_results_come_in_the_order_of_the_pieces(self):
        def slowest_first(piece):
            time.sleep(0.05 / (1 + piece))
            return piece, torch.get_num_threads()

        assert list(parallel_map(iter(range(20)), slowest_first)) == [(piece, 1) for piece in range(20)]

    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
    def test_products_of_matrices_start_no_more_threads(self):
        matrix = torch.randn(600, 600, dtype=torch.float64)

        def running(_=None):
            _ = matrix @ matrix
            return len(list(Path("/proc/self/task").iterdir()))

        before = running()
        assert max(parallel_map(iter(range(8)), running)) <= before + torch.get_num_threads()

    def test_only_some_pieces_are_read_ahead(self):
        read, threads = [], torch.get_num_threads()
        results = parallel_map((read.append(piece) or piece for piece in range(1000)), str)
        assert next(results) == "0"
        assert len(read) <= 2 * threads + 1

    def test_what_goes_wrong_is_raised_and_threads_are_given_back(self):
        before = torch.get_num_threads()
        with pytest.raises(ZeroDivisionError):
            list(parallel_map(iter([1, 0, 2]), lambda piece: 1 / piece))
        assert torch.get_num_threads() == before
