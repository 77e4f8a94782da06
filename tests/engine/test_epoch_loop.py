"""Our epoch loop and Lightning's, side by side: same hooks, weights, logged values and checkpoints."""

import copy
import gc
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from linreg_pl.engine import direct_steps
from linreg_pl.engine.trainer import Trainer


def pytest_id(value):
    """A name that is the same in every process, as that of a function is not."""
    return re.sub(r"<function (\w+) at 0x\w+>", r"\1", repr(value)) if isinstance(value, dict) else None


pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        ".*does not have many workers",
        ".*log_every_n_steps",
        ".*ModelCheckpoint with manual optimization",
        ".*exists and is not empty",
        ".*dataloader is not resumable",
        ".*GPU available but not used",
        ".*LeafSpec",
        ".*have no `val_dataloader`",
        ".*have no logger configured",
        ".*training_step` returned `None`",
        ".*train_dataloader yielded None",
        ".*isinstance\\(treespec",
        ".*`dataloader_iter` ",
        ".*is already saved during checkpointing",
        ".*does not have a `val_dataloader`",
        ".*extract the batch_size",
        ".*in eval mode",
    )
]
STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
OTHER_HOOKS = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_epoch_end",
    "on_train_end",
    "on_validation_start",
    "on_validation_batch_end",
    "on_validation_end",
)


def observe(trainer, hook, arguments):
    """What a hook sees of the trainer's state, and of its arguments."""
    loop = trainer.fit_loop.epoch_loop
    values = []
    for argument in arguments:
        if isinstance(argument, torch.optim.Optimizer):
            values.append(type(argument).__name__)
        elif not isinstance(argument, L.Trainer | L.LightningModule):
            values.append(copy.deepcopy(plain(argument)))
    return {
        "hook": hook,
        "arguments": values,
        "global_step": trainer.global_step,
        "loop": copy.deepcopy(loop.state_dict()),
        "stepped": loop._batches_that_stepped,
        "fx": trainer.lightning_module._current_fx_name,
        "first": trainer._logger_connector._first_loop_iter,
        "fetched": None if (f := trainer.fit_loop._data_fetcher) is None else (f.fetched, f.done),
        "grad": [None if p.grad is None else p.grad.tolist() for p in trainer.lightning_module.parameters()],
    }


def plain(value):
    """Tensors as lists, through containers, so that values compare."""
    if isinstance(value, torch.Tensor):
        return value.detach().tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


class Recorder(Callback):
    """A user's callback that has every hook, and a state."""

    def __init__(self):
        self.seen = []
        self.batches = 0

    def state_dict(self):
        return {"batches": self.batches}

    def load_state_dict(self, state):
        self.batches = state["batches"]


def _recorder_hook(name):
    def hook(self, trainer, module, *arguments):
        self.batches += name == "on_train_batch_end"
        self.seen.append(observe(trainer, name, arguments))

    return hook


for _name in STEP_HOOKS + OTHER_HOOKS:
    setattr(Recorder, _name, _recorder_hook(_name))


class Automatic(L.LightningModule):
    """Linear regression, automatically optimized."""

    def __init__(self, optimizer=torch.optim.SGD):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(2, 1)
        self.optimizer = optimizer

    def loss(self, batch):
        X, y = batch[0] if isinstance(batch[0], list) else batch  # of the first of several loaders
        return nn.functional.mse_loss(self.net(X), y)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=0.05)


class Adam(Automatic):
    def __init__(self):
        super().__init__(torch.optim.Adam)


class SumSGD(torch.optim.Optimizer):
    """The hand-written optimizer."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None, *, batch_size=1.0):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for param in group["params"]:
                    param.sub_(group["lr"] * param.grad / batch_size)
        return loss


class Manual(Automatic):
    """Linear regression whose steps are taken by hand."""

    def __init__(self):
        super().__init__(SumSGD)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(batch) * len(batch[0])
        self.manual_backward(loss)
        optimizer.step(batch_size=len(batch[0]))
        return loss / len(batch[0])


class ManualWithClosure(Manual):
    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()

        def closure():
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss

        self.log("result", optimizer.step(closure=closure))
        if batch_idx % 2:  # a second step in one batch, and a return value of another kind
            optimizer.step(closure)
            return {"loss": self.loss(batch), "extra": 3}
        if batch_idx % 4 == 2:
            raise StopIteration
        return None


class AutomaticTwice(Manual):
    """Two optimizers by hand."""

    def training_step(self, batch):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self):
        return [SumSGD([self.net.weight], 0.1), torch.optim.SGD([self.net.bias], 0.1)]


class Logging(Automatic):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        if batch_idx % 3 == 0:
            self.log("third", loss * 2)
        return {"loss": loss, "batch_idx": batch_idx}

    def on_before_backward(self, loss):
        self.log("before", loss)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if outputs:
            self.log("end", outputs["loss"], on_step=False, on_epoch=True)


class LoggingLate(Automatic):
    """Logs in later batches only, and in hooks only."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if batch_idx >= 2:
            self.log("late", outputs["loss"], on_step=True, prog_bar=True)


class SkipsSome(Automatic):
    def training_step(self, batch, batch_idx):
        return None if batch_idx % 3 == 1 else self.loss(batch)


class BatchOnly(Automatic):
    def training_step(self, batch):
        return self.loss(batch)


class Iterating(Automatic):
    def training_step(self, dataloader_iter):
        return self.loss(next(dataloader_iter)[0])


class AllHooks(Automatic):
    """A module with every hook of a step, the batch hooks included."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.seen.append(observe(self.trainer, "on_after_batch_transfer", (dataloader_idx,)))
        return [batch[0] + 1, batch[1]]


for _name in STEP_HOOKS:

    def _module_hook(self, *arguments, _name=_name):
        self.seen.append(observe(self.trainer, _name, arguments))

    setattr(AllHooks, _name, _module_hook)


class Overriding(Automatic):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        optimizer.step(closure=optimizer_closure)
        with torch.no_grad():
            self.net.weight *= 0.99


class Clipping(Automatic):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="value")


class OwnBackward(Automatic):
    def backward(self, loss):
        (2 * loss).backward()


class LBFGS(Automatic):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), max_iter=3)


class EpochScheduler(Automatic):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class StepScheduler(Automatic):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.9)
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "frequency": 2}]


class Plateau(Automatic):
    interval = "epoch"

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
        config = {"scheduler": scheduler, "monitor": "loss", "interval": self.interval, "frequency": 1}
        return {"optimizer": optimizer, "lr_scheduler": config}


class StepPlateau(Plateau):
    interval = "step"


class Stopping(Automatic):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 3 else None


def with_validation(cls):
    """The same module, validated."""

    def validation_step(self, batch, batch_idx):
        self.log("val", self.loss(batch), prog_bar=True)

    return type(f"Validated{cls.__name__}", (cls,), {"validation_step": validation_step})


class Unsized(IterableDataset):
    def __init__(self, size):
        self.size = size

    def __iter__(self):
        yield from dataset(self.size)


class Batches:
    """A loader that is none of torch's, and is shorter than it says or has empty batches, if asked to."""

    def __init__(self, batches, length):
        self.batches, self.length = batches, length

    def __len__(self):
        return self.length

    def __iter__(self):
        yield from self.batches


def dataset(size=24):
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(size, 2, generator=generator)
    return TensorDataset(X, X @ torch.tensor([[2.0], [-3.4]]) + 4.2)


def sized():
    return DataLoader(dataset(), batch_size=4)


def unsized():
    return DataLoader(Unsized(24), batch_size=4)


def several():
    return [DataLoader(dataset(), batch_size=4), DataLoader(dataset(12), batch_size=4)]


def too_short():
    return Batches([tuple(t[:4] for t in dataset().tensors)] * 3, 5)


def with_none():
    batch = tuple(t[:4] for t in dataset().tensors)
    return Batches([batch, None, batch], 3)


class Memory(Logger):
    """Keeps what is logged, and counts how often it is saved."""

    name, version = "memory", 0

    def __init__(self):
        super().__init__()
        self.rows, self.saves = [], 0

    def log_metrics(self, metrics, step=None):
        self.rows.append((dict(metrics), step))

    def log_hyperparams(self, *args, **kwargs):
        pass

    def save(self):
        self.saves += 1


class Keep(ModelCheckpoint):
    """Saves every other step, and at the end."""

    def __init__(self, folder):
        super().__init__(
            dirpath=folder, filename="{epoch}-{step}", save_top_k=-1, every_n_train_steps=2, save_last=True
        )


def run(trainer_class, tmp_path, module_class, loader=sized, ckpt_path=None, callbacks=(), expect=None, **options):
    """Fit once, and return all that can be seen of it."""
    torch.manual_seed(0)
    recorder, logger, module = Recorder(), Memory(), module_class()
    folder = tmp_path / "checkpoints"
    keep = Keep(folder)
    callbacks = [callback() for callback in callbacks]
    options = {"max_epochs": 2, "log_every_n_steps": 2, "accelerator": "cpu", "num_sanity_val_steps": 0} | options
    trainer = trainer_class(
        logger=logger,
        callbacks=[recorder, *callbacks, keep],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    fit = {"ckpt_path": ckpt_path} | ({"weights_only": False} if ckpt_path else {})
    val = DataLoader(dataset(8), batch_size=4) if is_overridden("validation_step", module) else None
    raised = None
    try:
        trainer.fit(module, loader(), val, **fit)
    except RuntimeError as error:
        raised = str(error)
    assert raised == expect
    assert type(trainer.precision_plugin).__name__ != "StepPrecision"
    checkpoints = {path.name: plain(torch.load(path, weights_only=False)) for path in sorted(folder.glob("*.ckpt"))}
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "seen": recorder.seen,
        "module": getattr(module, "seen", None),
        "batches": recorder.batches,
        "weights": {name: weight.tolist() for name, weight in module.state_dict().items()},
        "metrics": plain([trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics]),
        "rows": plain(logger.rows),
        "saves": logger.saves,
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "loops": trainer.fit_loop.state_dict(),
        "checkpoints": checkpoints,
    }


def compare(tmp_path, module_class, direct=True, monkeypatch=None, **options):
    """Fit with both Trainers, and require the same of both."""
    taken = []
    if monkeypatch is not None:
        take = direct_steps.DirectSteps.take
        monkeypatch.setattr(direct_steps.DirectSteps, "take", lambda self: (taken.append(1), take(self))[1])
    theirs = run(L.Trainer, tmp_path, module_class, **options)
    assert not taken
    ours = run(Trainer, tmp_path, module_class, **options)
    if monkeypatch is not None:
        assert bool(taken) == direct
    assert theirs["seen"]
    for key, value in theirs.items():
        assert ours[key] == value, key
    return ours


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize(
    "module_class",
    [
        Automatic,
        Adam,
        Manual,
        ManualWithClosure,
        AutomaticTwice,
        Logging,
        LoggingLate,
        SkipsSome,
        BatchOnly,
        AllHooks,
        Clipping,
        OwnBackward,
        LBFGS,
        EpochScheduler,
        StepScheduler,
        Plateau,
        StepPlateau,
        Stopping,
    ],
)
def test_modules_of_all_kinds(tmp_path, monkeypatch, module_class, validated):
    if validated:
        module_class = with_validation(module_class)
    ours = compare(tmp_path, module_class, monkeypatch=monkeypatch)
    assert ours["checkpoints"]


@pytest.mark.parametrize("module_class", [Manual, Logging])
@pytest.mark.parametrize(
    "options",
    [
        {"loader": unsized},
        {"loader": several},
        {"loader": too_short},
        {"loader": with_none},
        {"val_check_interval": 2},
        {"val_check_interval": 0.5, "limit_val_batches": 1},
        {"val_check_interval": 5, "check_val_every_n_epoch": None},
        {"val_check_interval": 3, "loader": unsized},
        {"val_check_interval": "00:00:00:00"},
        {"check_val_every_n_epoch": 2},
        {"max_steps": 8, "max_epochs": -1},
        {"max_steps": 6, "min_steps": 6},
        {"limit_train_batches": 3},
        {"limit_train_batches": 0.5, "loader": several},
        {"limit_train_batches": 4, "loader": unsized},
        {"fast_dev_run": 3},
        {"overfit_batches": 2},
        {"detect_anomaly": True},
        {"num_sanity_val_steps": 1},
        {"reload_dataloaders_every_n_epochs": 1},
    ],
    ids=pytest_id,
)
def test_options(tmp_path, monkeypatch, module_class, options):
    compare(tmp_path, with_validation(module_class), monkeypatch=monkeypatch, **options)


class StopsSoon(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step >= 4


class StopsAtLoss(EarlyStopping):
    def __init__(self):
        super().__init__("val", patience=0, min_delta=1e9, check_on_train_epoch_end=False)


class Clips(Callback):
    """Changes what it is given."""

    def on_after_backward(self, trainer, module):
        for parameter in module.parameters():
            parameter.grad.clamp_(-0.1, 0.1)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        optimizer.param_groups[0]["lr"] *= 0.9
        module.log("lr", optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("module_class", [Manual, Logging])
@pytest.mark.parametrize(
    "options",
    [
        {"callbacks": [StopsSoon]},
        {"callbacks": [StopsSoon], "min_steps": 8},
        {"callbacks": [StopsSoon], "min_epochs": 2},
        {"callbacks": [StopsAtLoss], "val_check_interval": 2},
        {"callbacks": [Clips]},
    ],
    ids=str,
)
def test_callbacks(tmp_path, monkeypatch, module_class, options):
    compare(tmp_path, with_validation(module_class), monkeypatch=monkeypatch, **options)


def test_clipping_by_the_trainer(tmp_path, monkeypatch):
    compare(tmp_path, Automatic, monkeypatch=monkeypatch, gradient_clip_val=0.1)


class Accumulating(Callback):
    def on_train_epoch_start(self, trainer, module):
        trainer.accumulate_grad_batches = 1 + trainer.current_epoch


def test_accumulation_that_begins_later(tmp_path, monkeypatch):
    compare(tmp_path, Logging, monkeypatch=monkeypatch, callbacks=[Accumulating])


def test_plateau_schedulers_step_before_the_checkpoint(tmp_path):
    class StepsEarly(Callback):
        def on_train_epoch_end(self, trainer, module):
            for _ in range(2):  # as two checkpoint callbacks do
                trainer.fit_loop.epoch_loop.step_plateau_schedulers()
            trainer.save_checkpoint(tmp_path / "end.ckpt")

    theirs, ours = Plateau(), Plateau()
    options = {"accelerator": "cpu", "max_epochs": 4, "logger": False, "enable_checkpointing": False}
    trainer = L.Trainer(**options, enable_progress_bar=False)
    trainer.fit(theirs, sized())
    early = quiet(max_epochs=4, callbacks=[StepsEarly()])
    early.fit(ours, sized())
    expected = trainer.lr_scheduler_configs[0].scheduler.state_dict()
    assert expected["last_epoch"] == 4
    assert early.lr_scheduler_configs[0].scheduler.state_dict() == expected
    assert plain(ours.state_dict()) == plain(theirs.state_dict())
    assert torch.load(tmp_path / "end.ckpt", weights_only=False)["lr_schedulers"] == [expected]


@pytest.mark.parametrize(
    ("module_class", "options"),
    [
        (Automatic, {"accumulate_grad_batches": 2}),
        (Logging, {"accumulate_grad_batches": 4, "gradient_clip_val": 0.1}),
        (Overriding, {}),
        (Iterating, {"loader": unsized}),
        (Automatic, {"precision": "64-true"}),
        (Automatic, {"precision": "bf16-mixed"}),
        (Automatic, {"profiler": "simple"}),
    ],
    ids=pytest_id,
)
def test_left_to_lightning(tmp_path, monkeypatch, module_class, options):
    compare(tmp_path, module_class, direct=False, monkeypatch=monkeypatch, **options)


class Failing(Automatic):
    def training_step(self, batch, batch_idx):
        if self.global_step == 7:
            raise RuntimeError("no more")
        return super().training_step(batch, batch_idx)


class FailingManual(Manual):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.global_step == 7:
            raise RuntimeError("no more")
        return loss


class FailingHook(Callback):
    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == 7:
            raise RuntimeError("no more")


@pytest.mark.parametrize("module_class", [Failing, FailingManual])
def test_an_exception_in_a_step(tmp_path, module_class):
    compare(tmp_path, module_class, expect="no more")


@pytest.mark.parametrize("module_class", [Automatic, Manual])
def test_an_exception_in_a_hook(tmp_path, module_class):
    compare(tmp_path, module_class, expect="no more", callbacks=[FailingHook])


def fit_until(tmp_path, stop, module_class, **options):
    """Fit with Lightning's Trainer, and return the checkpoint of a step."""

    class Leaves(Callback):
        path = tmp_path / "first.ckpt"

        def on_train_batch_end(self, trainer, module, *arguments):
            if trainer.global_step == stop:
                trainer.save_checkpoint(self.path)

    run(L.Trainer, tmp_path, module_class, callbacks=[Leaves], **options)
    return Leaves.path


@pytest.mark.parametrize("module_class", [Manual, Logging, StepScheduler])
@pytest.mark.parametrize(
    "options",
    [{}, {"max_steps": 16, "max_epochs": -1}, {"val_check_interval": 3}, {"loader": unsized}],
    ids=pytest_id,
)
@pytest.mark.parametrize("step", [3, 6])
def test_resuming(tmp_path, monkeypatch, module_class, options, step):
    module_class = with_validation(module_class)
    path = fit_until(tmp_path, step, module_class, **options)
    ours = compare(tmp_path, module_class, monkeypatch=monkeypatch, ckpt_path=path, **{"max_epochs": 3} | options)
    assert ours["step"] > 8


def test_resuming_at_the_end_of_an_epoch(tmp_path, monkeypatch):
    class AtEnd(Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.save_checkpoint(tmp_path / "end.ckpt")

    run(L.Trainer, tmp_path, Logging, max_epochs=1, callbacks=[AtEnd])
    compare(tmp_path, Logging, monkeypatch=monkeypatch, ckpt_path=tmp_path / "end.ckpt", max_epochs=2)


@pytest.mark.parametrize("module_class", [Automatic, Manual])
def test_hooks_of_the_optimizer_are_called(module_class):
    seen = []

    class Registering(Callback):
        def on_train_start(self, trainer, module):
            optimizer = trainer.optimizers[0]
            optimizer.register_step_pre_hook(lambda *arguments: seen.append("before"))
            optimizer.register_step_post_hook(lambda *arguments: seen.append("after"))

    quiet(max_steps=3, callbacks=[Registering()]).fit(module_class(), sized())
    assert seen == ["before", "after"] * 3


def test_torch_profiler_sees_the_optimizer():
    with torch.autograd.profiler.profile() as profile:
        quiet(max_steps=2).fit(Automatic(), sized())
    assert "Optimizer.step#SGD.step" in {event.name for event in profile.function_events}


def quiet(**options):
    """Our Trainer without files and output."""
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(**off | {"accelerator": "cpu", "max_epochs": 1} | options)


def test_fit_twice():
    trainer, module = quiet(), Automatic()
    trainer.fit(module, sized())
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, sized())
    assert trainer.global_step == 18


def test_a_copy_of_the_trainer_fits():
    trainer = pickle.loads(pickle.dumps(quiet(max_steps=4, min_steps=2)))
    assert (trainer.max_steps, trainer.min_steps) == (4, 2)
    trainer.fit(Automatic(), sized())
    assert trainer.global_step == 4


def test_learning_rate_finder(tmp_path):
    class Tunable(Automatic):
        lr = 0.1

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    found = []
    for trainer_class in (L.Trainer, Trainer):
        trainer = trainer_class(
            logger=False, enable_progress_bar=False, accelerator="cpu", max_epochs=1, default_root_dir=tmp_path
        )
        module = Tunable()
        finder = Tuner(trainer).lr_find(module, sized(), num_training=12)
        trainer.fit(module, sized())
        found.append((finder.results, module.lr, trainer.global_step, plain(module.net.weight)))
    assert found[0] == found[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of LightningCLI, by jsonargparse
def test_command_line_has_all_flags(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["linreg"])

    def parse(trainer_class, *arguments):
        return LightningCLI(
            Automatic, trainer_class=trainer_class, run=False, args=list(arguments), seed_everything_default=False
        )

    arguments = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.max_epochs=3"]
    ours, theirs = parse(Trainer, *arguments), parse(L.Trainer, *arguments)
    assert ours.config.trainer.as_dict() == theirs.config.trainer.as_dict()
    title = "Customize every aspect of training via flags"
    gc.collect()  # the help names every optimizer class alive, those that Lightning made in earlier tests too
    assert theirs.parser.format_help() == ours.parser.format_help().replace("A Trainer that takes steps cheaply", title)
    assert type(ours.trainer) is Trainer
    assert ours.trainer.max_epochs == 3
    with pytest.raises(SystemExit):
        parse(Trainer, "--trainer.max_epochs=many")


def test_the_environment_gives_defaults(monkeypatch):
    monkeypatch.setenv("PL_TRAINER_LIMIT_TRAIN_BATCHES", "7")
    assert quiet().limit_train_batches == 7


DDP = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
import lightning.pytorch as L
from tests.engine.test_epoch_loop import *

calls = []
broadcast = torch.distributed.broadcast
torch.distributed.broadcast = lambda *args, **kwargs: (calls.append(1), broadcast(*args, **kwargs))[1]

class Handles(Callback):
    handles_sigterm = True

if __name__ == "__main__":
    for module_class in (Manual, Logging):
        weights = []
        for trainer_class, callbacks in ((L.Trainer, [Handles()]), (Trainer, []), (Trainer, [Handles()])):
            calls.clear()
            module = module_class()
            trainer = trainer_class(
                devices=2, strategy="ddp", accelerator="cpu", max_epochs=2, callbacks=callbacks, logger=False,
                enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
            )
            trainer.fit(module, sized())
            weights.append(plain(module.state_dict()))
            if trainer.is_global_zero:
                print("RESULT", module_class.__name__, trainer_class is Trainer, bool(callbacks), len(calls),
                      trainer.global_step, weights[-1] == weights[0], sep=",", flush=True)
    torch.distributed.destroy_process_group()
"""


def test_two_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(DDP)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split(",")[1:] for line in done.stdout.splitlines() if line.startswith("RESULT")]
    steps = 6
    expected = []
    for name in ("Manual", "Logging"):
        expected.append([name, "False", "True", str(steps), str(steps), "True"])
        expected.append([name, "True", "False", str(steps), str(steps), "True"])
        expected.append([name, "True", "True", "0", str(steps), "True"])
    assert lines == expected
