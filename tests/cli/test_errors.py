"""What cannot work is refused in a line that names the culprit: no traceback, no usage, no run folder."""

import pytest
import torch

from linreg_pl import __main__
from linreg_pl.errors import InputError
from tests.commands import CONCISE, SCRATCH, TABLE


def assert_refused(outcome, *named):
    assert outcome.status in {1, 2}
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") <= 3
    assert "Traceback" not in outcome.stderr
    for culprit in named:
        assert culprit in outcome.stderr


@pytest.mark.parametrize(
    ("flags", "culprits"),
    [
        (("--foo", 1), ["--foo"]),
        (("--trainer.epochs", 3), ["--trainer.epochs"]),
        (("--model.lrr", 0.1), ["lrr"]),
        (("--data.batchsize", 10), ["batchsize"]),
        (("--model.lr", "abc"), ["lr", "abc"]),
        (("--model.lr", -1), ["--model.lr -1.0: must be a positive number"]),
        (("--model.lr", "nan"), ["lr", "nan"]),
        (("--trainer.max_epochs", "many"), ["max_epochs", "many"]),
        (("--trainer.precision", "7-true"), ["precision", "7-true"]),
        (("--data.num_train", 1.5), ["num_train", "1.5"]),
        (("--data.num_train", 0), ["there are no train rows: set --data.num_train"]),
        (("--data.batch_size", 0), ["--data.batch_size 0: must be a positive number"]),
        (("--data.noise_std", -1), ["--data.noise_std -1.0: must be zero or a positive number"]),
        (("--data.true_weight", "[]"), ["--data.true_weight []: needs at least one weight, e.g. [2, -3.4]"]),
        (("--data.true_weight", "[a]"), ["true_weight", "a"]),
        (("--model", "Scrach"), ["--model Scrach: did you mean Scratch?"]),
        (("--model", "Forest"), ["--model Forest: choose one of", "Scratch", "Concise"]),
        (("--data", "Tabel"), ["--data Tabel: did you mean Table?"]),
        (("--config", "nope.yaml"), ["nope.yaml"]),
        (("--trainer.accelerator", "gpuu"), ["gpuu"]),
        (("--trainer.accelerator", "tpu"), ["torch_xla"]),
        (("--trainer.devices", 0), ["devices"]),
        (("--trainer.val_check_interval", 1000), ["val_check_interval"]),
        (("--trainer.overfit_batches", 0.1), ["--trainer.overfit_batches 0.1"]),
        (("--trainer.callbacks", "EarlyStoping"), ["EarlyStoping"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_bad_argument_is_refused(linreg, flags, culprits):
    assert_refused(linreg("fit", "--config", SCRATCH, *flags), *culprits)


def test_argument_before_the_class_it_belongs_to_is_refused(linreg):
    outcome = linreg("fit", "--model.lr", 0.1, "--model", "Scratch", "--data", "Synthetic")
    assert (outcome.status, outcome.stderr) == (2, "error: --model.lr 0.1: put --model NAME before it\n")


@pytest.mark.parametrize("flags", [("--model.lr", -1), ("--model.lrr", 1), ("--trainer.strategy", "fsdp")], ids=str)
def test_nothing_is_left_behind(linreg, tmp_path, flags):
    assert_refused(linreg("fit", "--config", SCRATCH, *flags))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_without_command_the_commands_are_listed(linreg, arguments):
    outcome = linreg(*arguments).succeeded()
    for command in ("fit", "validate", "test", "predict", "report"):
        assert f"python train.py {command}" in outcome.stdout or f"\n  {command} " in outcome.stdout


def test_unknown_command_is_refused(linreg):
    assert_refused(linreg("train"), "train")


def test_damaged_config_is_refused(linreg, tmp_path):
    (tmp_path / "bad.yaml").write_text("model: [")
    assert_refused(linreg("fit", "--config", "bad.yaml"), "bad.yaml")


def test_table_without_path_is_refused(linreg):
    assert_refused(linreg("fit", "--model", "Scratch", "--data", "Table", "--data.target", "y"), "path")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_missing_checkpoint_is_refused(linreg, command):
    outcome = linreg(command, "--config", SCRATCH, "--ckpt_path", "nope.ckpt")
    assert_refused(outcome, "--ckpt_path nope.ckpt: no such file")


@pytest.fixture
def checkpoint(scratch_fit):
    return scratch_fit.run / "checkpoints/last.ckpt"


DAMAGED = {
    "empty": lambda good: b"",
    "text": lambda good: b"hello",
    "half": lambda good: good[: len(good) // 2],
    "zeros": lambda good: bytes(len(good)),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("command", ["fit", "validate"])
def test_damaged_checkpoint_is_refused(linreg, tmp_path, checkpoint, damage, command):
    (tmp_path / "bad.ckpt").write_bytes(damage(checkpoint.read_bytes()))
    outcome = linreg(command, "--config", SCRATCH, "--ckpt_path", "bad.ckpt")
    assert_refused(outcome, "--ckpt_path bad.ckpt: is not a checkpoint that can be read")


@pytest.mark.parametrize("content", [{"weights": torch.ones(2)}, [1, 2], torch.ones(2)], ids=type)
@pytest.mark.parametrize("command", ["fit", "validate"])
def test_file_of_torch_that_is_no_checkpoint_is_refused(linreg, tmp_path, content, command):
    torch.save(content, tmp_path / "other.ckpt")
    assert_refused(linreg(command, "--config", SCRATCH, "--ckpt_path", "other.ckpt"), "--ckpt_path other.ckpt")


def test_checkpoint_with_code_is_refused_and_not_run(linreg, tmp_path, checkpoint):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"payload": Payload()}, tmp_path / "evil.ckpt")
    outcome = linreg("validate", "--config", SCRATCH, "--ckpt_path", "evil.ckpt")
    assert_refused(outcome, "--ckpt_path evil.ckpt: is not a checkpoint that can be read")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_checkpoint_of_another_model_is_refused(linreg, checkpoint, command):
    assert_refused(linreg(command, "--config", CONCISE, "--ckpt_path", checkpoint), f"--ckpt_path {checkpoint}")


@pytest.mark.parametrize(
    ("flag", "value", "saved"),
    [("lr", 0.5, 0.03), ("bias", "false", True), ("weight_decay", 0.1, 0.0), ("init_std", 1.0, 0.01)],
)
def test_argument_that_contradicts_the_checkpoint_is_refused(linreg, checkpoint, flag, value, saved):
    outcome = linreg("fit", "--config", SCRATCH, "--ckpt_path", checkpoint, f"--model.{flag}", value)
    given = {"false": False}.get(value, value)
    sentence = f"--model.{flag} {given}: {checkpoint} was made with {saved}; leave the flag out, or fit anew"
    assert_refused(outcome, f"error: {sentence} without --ckpt_path\n")


def test_checkpoint_of_other_data_is_refused(linreg, checkpoint):
    flags = ("--ckpt_path", checkpoint, "--data.true_weight", "[1, 2, 3]")
    assert_refused(linreg("fit", "--config", SCRATCH, *flags), str(checkpoint))


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("LINREG_DEBUG", "1")
    monkeypatch.setattr("sys.argv", ["train.py", "report", "nope"])
    with pytest.raises(InputError, match=r"^nope: holds no report\.json"):
        __main__.main()


def test_of_several_processes_the_first_alone_speaks(linreg, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    outcome = linreg("fit", "--config", SCRATCH, "--model.lr", -1)
    assert (outcome.status, outcome.stderr) == (1, "")


def test_as_a_shell_sees_it(launch):
    outcome = launch("fit", "--config", TABLE, "--data.path", "nope.csv")
    assert (outcome.status, outcome.stdout) == (1, "")
    assert outcome.stderr == "error: nope.csv: no such file (--data.path)\n"
