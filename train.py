"""Fit, validate, test and predict: ``python train.py --help``."""

from linreg_pl.__main__ import main

if __name__ == "__main__":
    main()
