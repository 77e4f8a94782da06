"""The steps of an epoch, with all that is called in them looked up once instead of in every step."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import do_nothing_closure
from lightning.pytorch.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult
from lightning.pytorch.loops.optimization.manual import ManualResult
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.call import _call_strategy_hook
from lightning.pytorch.utilities.combined_loader import CombinedLoader, _MaxSizeCycle
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from linreg_pl.engine.hooks import StepPrecision, find_hook, step

_BATCH_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class DirectSteps:
    """The steps of one epoch, which can be taken until `close`."""

    def __init__(self, loop: _TrainingEpochLoop, fetcher: _DataFetcher) -> None:
        trainer, module = loop.trainer, loop.trainer.lightning_module
        self.loop, self.trainer, self.module, self.fetcher = loop, trainer, module, fetcher
        self.state = vars(module)  # setting an attribute of a module is slow
        self.strategy = trainer.strategy
        self.connector = trainer._logger_connector
        self.validates_at_end = not loop._should_check_val_epoch() or (
            trainer.check_val_every_n_epoch is not None and trainer.val_check_batch == trainer.num_training_batches
        )
        self.distributed = trainer.world_size > 1
        self.iterator = _only_iterator(fetcher)
        self.transfers = trainer.strategy.root_device.type != "cpu" or any(
            is_overridden(name, owner) for name in _BATCH_HOOKS for owner in (module, trainer.datamodule)
        )
        self.on_train_batch_start = find_hook("on_train_batch_start", trainer)
        self.on_train_batch_end = find_hook("on_train_batch_end", trainer)
        self.on_before_zero_grad = find_hook("on_before_zero_grad", trainer)
        # Without a wrapper of several processes, the strategy would only pass the call on.
        self.training_step = (module if self.strategy.model is module else self.strategy).training_step
        self.takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
        self.arguments: tuple[Any, ...] = ()
        self.closure = Closure(self._run_training_step, self._backward, self._zero_grad)
        self.optimize = self._step_automatically if module.automatic_optimization else self._step_manually
        self.precision = self.strategy.precision_plugin
        self.strategy.precision_plugin = precision = StepPrecision(trainer)
        self.shortens = (  # strategy and precision would only pass on what a step by hand asks for
            not module.automatic_optimization
            and type(self.strategy) is SingleDeviceStrategy
            and not is_overridden("backward", module)
            and not is_overridden("manual_backward", module)
            and precision.calls_nothing
        )
        if self.shortens:
            self.state["manual_backward"] = Tensor.backward
            for optimizer in self.strategy._lightning_optimizers:
                vars(optimizer)["step"] = partial(_step_by_hand, optimizer)

    def close(self) -> None:
        """Give the strategy its own precision plugin back, and let go of all that holds this object in turn."""
        self.strategy.precision_plugin = self.precision
        self._on_manual_steps(do_nothing_closure, do_nothing_closure)
        if self.shortens:
            del self.state["manual_backward"]
            for optimizer in self.strategy._lightning_optimizers:
                del vars(optimizer)["step"]
        vars(self).clear()  # else the rows of the fit would stay until Python looks for cycles

    def take(self) -> None:
        """Take one step, in the order of Lightning's ``advance``."""
        loop = self.loop
        progress = loop.batch_progress
        if self.distributed:
            loop._broadcast_sigterm_tensor()
        batch = self._fetch()
        batch_idx = progress.current.ready
        progress.is_last_batch = self.fetcher.done
        if self.transfers:
            batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
            batch = _call_strategy_hook(self.trainer, "batch_to_device", batch, dataloader_idx=0)
        progress.increment_ready()
        self.connector._first_loop_iter = self.connector._first_loop_iter is None
        results = loop._results
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        outputs, response = None, None
        if batch is None:
            loop._warning_cache.warn("train_dataloader yielded None. If this was on purpose, ignore this warning...")
        else:
            response = self.on_train_batch_start(batch, batch_idx)
            if response == -1:
                progress.increment_by(0, is_last_batch=True)
            else:
                progress.increment_started()
                self.arguments = (batch, batch_idx) if self.takes_index else (batch,)
                outputs = self.optimize()
        progress.increment_processed()
        if self.strategy.lr_scheduler_configs:
            loop.update_lr_schedulers("step", update_plateau_schedulers=False)
            if loop._num_ready_batches_reached():
                loop.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if response == -1:
            raise StopIteration
        self.on_train_batch_end(outputs, batch, batch_idx)
        logged = not all(value.has_reset for value in results.values())  # something, in this epoch
        if logged:
            self.connector.on_batch_end()
        else:
            results.batch = results.batch_size = None
        progress.increment_completed()
        if logged:
            self.connector.update_train_step_metrics()

    def _fetch(self) -> Any:
        fetcher = self.fetcher
        if self.iterator is None:
            return next(fetcher)[0]
        if fetcher.done:
            raise StopIteration
        try:
            batch = next(self.iterator)
        except StopIteration:
            fetcher.done = True
            raise
        fetcher.fetched += 1
        fetcher.done = fetcher.fetched >= fetcher.length  # type: ignore[operator]
        return batch

    def _step_automatically(self) -> dict[str, Any]:
        progress = self.loop.automatic_optimization.optim_progress.optimizer.step
        progress.increment_ready()
        self.state["_current_fx_name"] = "optimizer_step"
        self.strategy.optimizer_step(self.trainer.optimizers[0], self.closure)
        self.state["_current_fx_name"] = None
        progress.increment_completed()
        self.arguments = ()  # releases the batch
        result = self.closure.consume_result()
        return {} if result.loss is None else result.asdict()

    def _step_manually(self) -> dict[str, Any]:
        progress = self.loop.manual_optimization.optim_step_progress
        self._on_manual_steps(progress.increment_ready, progress.increment_completed)
        try:
            output = self._call_training_step()
        except StopIteration:  # Lightning takes it for the end of this step only
            return {}
        finally:
            self.arguments = ()
        if isinstance(output, Tensor):
            return {"loss": output.detach()}
        return ManualResult.from_training_step_output(output).asdict()

    def _on_manual_steps(self, before: Callable[[], Any], after: Callable[[], Any]) -> None:
        for optimizer in self.strategy._lightning_optimizers:
            optimizer._on_before_step, optimizer._on_after_step = before, after

    def _call_training_step(self) -> Any:
        previous = self.state["_current_fx_name"]
        self.state["_current_fx_name"] = "training_step"
        output = self.training_step(*self.arguments)
        self.state["_current_fx_name"] = previous
        return output

    def _run_training_step(self) -> ClosureResult:
        output = self._call_training_step()
        if isinstance(output, Tensor):
            return ClosureResult(output)
        if output is None and self.distributed:
            raise RuntimeError("Under several processes, `training_step` cannot skip a step by returning None.")
        return ClosureResult.from_training_step_output(output)

    def _zero_grad(self) -> None:
        optimizer = self.trainer.optimizers[0]
        progress = self.loop.automatic_optimization.optim_progress.optimizer.zero_grad
        progress.increment_ready()
        self.on_before_zero_grad(optimizer)
        progress.increment_started()
        optimizer.zero_grad()
        progress.increment_completed()

    def _backward(self, loss: Tensor) -> None:
        self.state["_current_fx_name"] = "backward"
        self.strategy.backward(loss, self.trainer.optimizers[0])
        self.state["_current_fx_name"] = "optimizer_step"


def can_step_directly(trainer: Trainer, fetcher: _DataFetcher) -> bool:
    """Tell whether the steps need nothing that only Lightning's own loop does."""
    return (
        type(trainer.strategy) in (SingleDeviceStrategy, DDPStrategy)
        and type(trainer.precision_plugin) is Precision
        and type(trainer.profiler) is PassThroughProfiler  # type: ignore[attr-defined]
        and type(fetcher) is _PrefetchDataFetcher  # not the one for `training_step(dataloader_iter)`
        and trainer.accumulate_grad_batches == 1
        and not trainer.fit_loop._skip_backward
        and not is_overridden("optimizer_step", trainer.lightning_module)
        and not is_overridden("optimizer_zero_grad", trainer.lightning_module)
    )


def _only_iterator(fetcher: _DataFetcher) -> Iterator[Any] | None:
    """Return the iterator of the loader if there is a single one of known length."""
    loader = fetcher.combined_loader
    iterator = loader._iterator
    if fetcher.length is None or type(loader) is not CombinedLoader or type(iterator) is not _MaxSizeCycle:
        return None
    return iterator.iterators[0] if loader.iterables is loader.flattened[0] else None


def _step_by_hand(optimizer: Any, closure: Callable[[], Any] | None = None, **arguments: Any) -> Any:
    """Step as a `LightningOptimizer` does."""
    if closure is not None:
        return type(optimizer).step(optimizer, closure, **arguments)
    optimizer._on_before_step()
    result = step(optimizer._optimizer, **arguments)
    optimizer._on_after_step()
    return result
