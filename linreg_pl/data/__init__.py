"""LightningDataModules, and the one place that decides which rows come when."""
