"""A user's script: fits with the arguments of a Trainer, and prints what the models came to."""

import json
import logging
import sys

import lightning.pytorch as L
import torch

import linreg_pl
from linreg_pl import Synthetic
from tests.lightning.own import MODELS, OwnModule, loader, model, norris, rows, trainer, weights


def fit(ours, options, kind, **data):
    """Fit, and return all that can be seen of it."""
    run = trainer(kind, 2, **options)
    run.fit(ours, **data)
    found = {"weights": [p.tolist() for p in ours.parameters()] if isinstance(ours, OwnModule) else weights(ours)}
    found["metrics"] = {name: float(value) for name, value in sorted(run.callback_metrics.items())}
    if not isinstance(ours, OwnModule):
        found["units"] = ours(torch.tensor([[500.0] * len(ours.feature_names)])).item()
        found["known"] = ours.has_coefficients
    return found


def prepare(name):
    """The model and the data of "Concise Table", and the Trainer, which is ours in "Concise Table ours"."""
    fits, data, *own = name.split()
    kind = linreg_pl.Trainer if own else L.Trainer
    models = {fits.__name__: fits for fits in MODELS}
    if data == "Synthetic":
        return model(models[fits]), {"datamodule": Synthetic(num_train=105)}, kind
    if data == "Table":
        return model(models[fits], 1), {"datamodule": norris(batch_size=7, val_fraction=0.2)}, kind
    start = {} if fits == "Exact" else {"init_std": 0.0, "lr": 0.1 if fits == "Concise" else 0.2}  # of half the loss
    ours = OwnModule() if fits == "OwnModule" else model(models[fits], **start)
    torch.manual_seed(5)
    return ours, {"train_dataloaders": loader(*rows(count=104), batch_size=4, shuffle=True)}, kind


def cases(names, options):
    """Fits by their names."""
    for name in names:
        ours, data, kind = prepare(name)
        yield name, fit(ours, options, kind, **data)


def main(options, names):
    """Print a line of JSON, in the first process."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    found = dict(cases(names, options))
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
