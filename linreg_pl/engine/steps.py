"""How the Trainer counts steps."""

from lightning.pytorch import Trainer


def count_steps(trainer: Trainer, count: int) -> None:
    """Count optimizer steps that a training step took by hand beside the one that the Trainer has counted."""
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
    progress.ready += count
    progress.completed += count
