"""Many SGD steps at once. Empty, for the loop imports numba."""
