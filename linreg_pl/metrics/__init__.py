"""torchmetrics classes: state and synchronisation; the mathematics is in `linreg_pl.functional`."""
