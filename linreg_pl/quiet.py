"""What Lightning need not say."""

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
NOISE = re.compile(  # what Lightning says on every run, be it right or wrong
    r"(\[rank: \d+\] )?(Seed set to|GPU available|TPU available|HPU available|Tip:|💡|Initializing distributed"
    r"|-+\ndistributed_backend|`Trainer.fit` stopped|Restor(ing|ed all) states from|Loaded model weights from"
    r"|Received SIGTERM|Running in `fast_dev_run` mode|`Trainer\((overfit_batches|limit_|val_check_interval))"
)
NOISY_WARNINGS = (
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*LeafSpec.*",
    ".*recommended to use `self.log\\('(train|val|test)/.*sync_dist=True",  # they are over all processes already
    "Using ModelCheckpoint with manual optimization.*",  # the state after the step is the one to keep
    "Be aware that when using `ckpt_path`.*",  # only `fit` needs the callbacks of the fit
    "Total length of `list` across ranks is zero",  # there need be no validation rows
    ".*your dataloader is not resumable.*",  # it is: order and position follow from the Trainer's own count
    "Your `IterableDataset` has `__len__` defined.*",  # and rightly so
    "The dirpath has changed from .*",  # a resumed run has a folder of its own
    r"Checkpoint directory .*version_\d+.checkpoints exists and is not empty",  # as of a resumed run
)


def _worth_saying(record: logging.LogRecord) -> bool:
    return not NOISE.match(record.getMessage())


def quieten() -> None:
    """Silence what Lightning says on every run, message by message; nothing else. Saying it twice changes nothing."""
    for name in QUIET_LOGGERS:
        logging.getLogger(name).addFilter(_worth_saying)
    for message in NOISY_WARNINGS:
        warnings.filterwarnings("ignore", message)


def pass_over_full_disks(failed: threading.ExceptHookArgs) -> None:
    """Print what ended a thread, but for a disk that is full: whoever waits for the thread will say that."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)
