"""Silences the messages and warnings that Lightning prints on every run."""

import logging
import re
import threading
import warnings

QUIET_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "lightning.fabric.utilities.distributed",
    "lightning.pytorch.trainer.connectors.signal_connector",
)
NOISE = re.compile(  # messages that Lightning prints on every run
    r"(\[rank: \d+\] )?(Seed set to|GPU available|TPU available|HPU available|Tip:|💡|Initializing distributed"
    r"|-+\ndistributed_backend|`Trainer.fit` stopped|Restor(ing|ed all) states from|Loaded model weights from"
    r"|Received SIGTERM|Running in `fast_dev_run` mode|`Trainer\((overfit_batches|limit_|val_check_interval))"
)
NOISY_WARNINGS = (
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*LeafSpec.*",
    ".*recommended to use `self.log\\('(train|val|test)/.*sync_dist=True",  # they are over all processes
    "Using ModelCheckpoint with manual optimization.*",  # the state after the step is the one that is wanted
    "Be aware that when using `ckpt_path`.*",  # only `fit` needs the callbacks of the fit
    "Total length of `list` across ranks is zero",  # a run without validation rows is allowed
    ".*your dataloader is not resumable.*",  # it is: order and position follow from the Trainer's progress
    "Your `IterableDataset` has `__len__` defined.*",  # which is correct
    "The dirpath has changed from .*",  # a resumed run has a folder of its own
    r"Checkpoint directory .*version_\d+.checkpoints exists and is not empty",  # in a resumed run
)


def _is_not_noise(record: logging.LogRecord) -> bool:
    return not NOISE.match(record.getMessage())


def quieten() -> None:
    """Filter out these messages and warnings, and no others; calling it again changes nothing."""
    for name in QUIET_LOGGERS:
        logging.getLogger(name).addFilter(_is_not_noise)
    for message in NOISY_WARNINGS:
        warnings.filterwarnings("ignore", message)


def pass_over_full_disks(failed: threading.ExceptHookArgs) -> None:
    """Print the exception that ended a thread, except an OSError, which is reported where the thread is joined."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)
