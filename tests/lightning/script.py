"""A user's script: fits by two processes, and prints what the models came to."""

import json
import logging
import sys

import lightning.pytorch as L
import torch

import linreg_pl
from linreg_pl import Synthetic
from tests.lightning.own import MODELS, OwnModule, loader, model, norris, rows, trainer, weights


def prepare(name):
    """The model and the data of "Concise Table", and the Trainer, which is ours in "Concise Table ours"."""
    fits, data, *own = name.split()
    kind = linreg_pl.Trainer if own else L.Trainer
    models = {fits.__name__: fits for fits in MODELS}
    if data == "Synthetic":
        return model(models[fits]), {"datamodule": Synthetic(num_train=105)}, kind
    if data == "Table":
        return model(models[fits], 1), {"datamodule": norris(batch_size=7, val_fraction=0.2)}, kind
    if data == "averaged":
        return model(models[fits], 1, average=True), {"datamodule": norris(batch_size=7, val_fraction=0.2)}, L.Trainer
    start = {} if fits == "Exact" else {"init_std": 0.0, "lr": 0.1 if fits == "Concise" else 0.2}  # of half the loss
    ours = OwnModule() if fits == "OwnModule" else model(models[fits], **start)
    torch.manual_seed(5)
    return ours, {"train_dataloaders": loader(*rows(count=104), batch_size=4, shuffle=True)}, kind


def fit(name, **options):
    """Fit, and return all that can be seen of it."""
    ours, data, kind = prepare(name)
    run = trainer(kind, 2, **options)
    run.fit(ours, **data)
    metrics = {name: float(value) for name, value in sorted(run.callback_metrics.items())}
    if isinstance(ours, OwnModule):
        return {"weights": [*ours.net.weight[0].tolist(), *ours.net.bias.tolist()], "metrics": metrics}
    far = torch.tensor([[500.0] * len(ours.feature_names)])
    return {"weights": weights(ours), "metrics": metrics, "units": ours(far).item(), "known": ours.has_coefficients}


def main(strategies):
    """Print a line of JSON, in the first process."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    found = {name: fit(name, devices=2, strategy=strategy) for name, strategy in strategies.items()}
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
