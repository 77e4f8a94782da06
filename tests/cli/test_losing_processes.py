"""A process that fails, is killed or hangs: the others end soon, one says why, nothing stays behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.support.commands import DDP, REPOSITORY, SCRATCH, Forked, free_port

SOON = 30  # seconds
SHARED = Path("/dev/shm")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
FIT = ("fit", "--config", SCRATCH, "--config", DDP)
HANGS = ("--timeout", 0.3)  # minutes
FAILED = r"error: process 1 of 2 failed: KeyError: 'it' \(LINREG_DEBUG=1 shows where\)$"
TOO_LARGE = "error: .*File too large"
LOST, SILENT = (
    {rank: rf"error: process {rank} of 2 (\(pid \d+ on \S+\) )?{how}" for rank in (0, 1)}
    for how in ("is lost:", "did not answer within --timeout")
)


def lose(how, rank=1, **options):
    """Flags that lose one process."""
    flags = {"how": how, "rank": rank, **options}
    words = (word for name, value in flags.items() for word in (f"--trainer.callbacks.{name}", value))
    return ("--trainer.callbacks", "tests.support.losing.Lose", *words)


def processes(token):
    """Those of a run, known by their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if token.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


class Run:
    """A command that was started in a folder, and what comes of it; begun once it has lost a process, if it will."""

    def __init__(self, folder, *arguments, name="run", command=(), launcher=(), loses=True, **environment):
        self.folder, self.name, self.token, self.seen = folder, name, f"TOKEN={uuid.uuid4().hex}", set()
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True, exist_ok=True)
        environment |= {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary), "TOKEN": self.token[6:]}
        self.start([*command, sys.executable, *launcher, REPOSITORY / "train.py"], arguments, environment)
        self.left, self.deadline = [], time.monotonic() + 180
        self.observer = threading.Thread(target=self.observe, daemon=True)
        self.observer.start()
        if loses:
            self.until((folder / "lost").exists)
        self.since = time.monotonic()

    def start(self, command, arguments, environment):
        with (self.folder / f"{self.name}.out").open("w") as out, (self.folder / f"{self.name}.err").open("w") as err:
            options = {"cwd": self.folder, "env": environment, "stdout": out, "stderr": err}
            self.process = subprocess.Popen([*map(str, (*command, *arguments))], **options)

    def running(self):
        """Those of its processes that have not ended."""
        found = processes(self.token)
        return found if found or self.process.poll() is not None else [self.process.pid]

    def wait(self):
        return self.process.wait()

    def until(self, condition):
        while not condition():
            assert self.observer.is_alive(), self.stderr
            time.sleep(0.05)

    def observe(self):
        """Find out when the last process has ended."""
        while running := self.running():
            self.seen |= set(running)
            if time.monotonic() > self.deadline:
                self.left = running
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        self.end = time.monotonic()

    def ends(self, within=SOON):
        """Wait until no process is left."""
        self.observer.join()
        seconds = self.end - self.since
        print(f"{self.folder.name} {self.name}: after {seconds:.1f} s")
        assert not self.left, (self.left, self.stderr)
        assert seconds < within, (seconds, self.stderr)
        self.status = self.wait()
        return self

    def says(self, sentence):
        """Check that one sentence tells why, and that nothing stays behind."""
        assert self.status != 0
        (said,) = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert re.match(sentence, said), said
        others = self.stderr.replace(said + "\n", "")
        assert not re.search("linreg_pl/|gloo|lightning|^error", others), others
        assert not others or "torch.distributed.elastic" in others, others  # which torchrun says by itself
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("", int((self.folder / "lost").read_text())))
        assert not [path for path in self.temporary.iterdir() if not path.name.startswith("torchelastic_")]
        assert not list(self.folder.rglob("*.tmp"))
        assert not [path for path in SHARED.iterdir() if any(str(pid) in path.name for pid in self.seen)]

    @property
    def stdout(self):
        return (self.folder / f"{self.name}.out").read_text()

    @property
    def stderr(self):
        return (self.folder / f"{self.name}.err").read_text()


class ForkedRun(Run):
    """The same by processes that find each other as a cluster's do, forked from one that has imported all."""

    def start(self, command, arguments, environment):
        self.forks = Forked(self.folder, *arguments, processes=2, environment=environment)

    def running(self):
        return [process.pid for process in self.forks.processes if process.is_alive()]

    def wait(self):
        return self.forks.end().status

    @property
    def stdout(self):
        return self.forks.stdout

    @property
    def stderr(self):
        return self.forks.stderr


def check(folder, cases, kind=Run, **options):
    """Start two at a time, without waiting for the end of those before them."""

    def start(name):
        command, lost, *_ = cases[name]
        return kind(folder / name, *command, *lost, **options)

    with ThreadPoolExecutor(2) as starters:
        runs = list(starters.map(start, cases))
    for run, (*_, sentence, within) in zip(runs, cases.values(), strict=True):
        run.ends(within).says(sentence)


def test_processes_launched_by_lightning(tmp_path):
    cases = {  # those that have to wait come first
        "stopped": (FIT, (*HANGS, *lose("stop")), SILENT[1], 18 + SOON),
        "long_work": (FIT, lose("kill", others="hang"), LOST[1], SOON),
        "parent": (FIT, lose("kill", 0), LOST[0], SOON),
        "exception": (FIT, lose("fail"), FAILED, SOON),
    }
    check(tmp_path, cases)


def test_processes_launched_by_torchrun(tmp_path):
    cases = {
        "hangs": (FIT, (*HANGS, *lose("hang", 0)), SILENT[0], 18 + SOON),
        "torchrun": (FIT, lose("kill_parent", others="hang"), "error: torchrun at localhost is lost: ", SOON),
        "exception": (FIT, lose("fail"), FAILED, SOON),
    }
    check(tmp_path, cases, launcher=TORCHRUN)


def test_processes_started_by_a_cluster(tmp_path, scratch_fit):
    predict = (*on("predict", scratch_fit), "--predictions", "there.parquet", "--data.num_test", 200_000)
    cases = {
        "exception": (FIT, lose("fail"), FAILED, SOON),
        "parent": (FIT, lose("kill", 0), LOST[0], SOON),
        "save": (FIT, lose("full_disk", 0, when="on_save_checkpoint"), TOO_LARGE, SOON),
        "memory": (FIT, lose("memory"), "error: process 1 of 2: there is not enough memory: ", SOON),
        "validate": (on("validate", scratch_fit), lose("kill", when="on_validation_batch_start"), LOST[1], SOON),
        "predict": (predict, lose("kill", when="on_predict_epoch_end"), LOST[1], SOON),
        "disk": (predict, lose("full_disk", when="on_predict_start"), TOO_LARGE, SOON),
    }
    check(tmp_path, cases, ForkedRun)
    assert not list(tmp_path.rglob("there*"))


def test_torchrun_that_is_killed_before_its_processes_have_met(tmp_path):
    run = Run(tmp_path, *FIT, launcher=TORCHRUN, loses=False)

    def loaded(pid):
        with suppress(OSError):
            return "libtorch" in Path(f"/proc/{pid}/maps").read_text()

    run.until(lambda: any(loaded(pid) for pid in processes(run.token) if pid != run.process.pid))
    run.process.kill()
    run.since = time.monotonic()
    run.ends(2 * SOON)
    assert run.stderr.count("error: ") == 1
    assert run.stderr.startswith("error: torchrun at localhost is lost: killed, or cut off")


def test_torchrun_that_was_gone_before_its_process_began(tmp_path):
    torchrun = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "localhost"}
    torchrun |= {"MASTER_PORT": str(free_port()), "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    run = Run(tmp_path, *FIT, loses=False, **torchrun).ends(2 * SOON)
    assert run.stderr == "error: torchrun at localhost is lost: killed, or cut off; to continue a fit, use --resume\n"


def on(command, outcome):
    """Flags by which a command takes what a run has fitted."""
    run = outcome.run
    return (command, "--config", run / "config.yaml", "--config", DDP, "--ckpt_path", run / "checkpoints/last.ckpt")


def weights(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Two hosts with a cable between them: ``start(folder, …)`` a run on both, and ``cut(far)`` the cable.

    Where the machine lends no network namespaces, both are this one, and a far host that does not answer is one
    whose processes are stopped.
    """
    enter = ["nsenter", "--user", "--net", "--preserve-credentials", "--target"]
    holders = []

    def hold(*command):
        holders.append(subprocess.Popen([*command, "sleep", "1000"], stdout=subprocess.DEVNULL))
        while Path(f"/proc/{holders[-1].pid}/comm").read_text() != "sleep\n":  # the command has not come so far
            assert holders[-1].poll() is None
            time.sleep(0.01)
        return [*enter, str(holders[-1].pid)]

    trial = ["unshare", "--map-root-user", "--net", "ip", "link", "add", "near", "type", "veth", "peer", "name", "far"]
    if subprocess.run(["sh", "-c", " ".join(trial)], capture_output=True, check=False).returncode == 0:
        near = hold("unshare", "--map-root-user", "--net")
        far = hold(*near, "unshare", "--net")
        setup = f"""ip link set lo up; ip link add near type veth peer name far netns {holders[-1].pid}
            ip addr add 10.77.0.1/24 dev near; ip link set near up"""
        subprocess.run([*near, "sh", "-ec", setup], check=True)
        setup = "ip link set lo up; ip addr add 10.77.0.2/24 dev far; ip link set far up"
        subprocess.run([*far, "sh", "-ec", setup], check=True)
        places, address = {"near": near, "far": far}, "10.77.0.1"

        def cut(run):
            subprocess.run([*near, "ip", "link", "set", "near", "down"], check=True)
    else:
        places, address = {"near": [], "far": []}, "127.0.0.1"

        def cut(run):
            for pid in processes(run.token):
                os.kill(pid, signal.SIGSTOP)

    def start(folder, *arguments):
        port = free_port()
        torchrun = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1")
        torchrun += (f"--master_addr={address}", f"--master_port={port}")
        (folder / "lost").write_text(str(port))
        for rank, (name, command) in enumerate(places.items()):
            device = {"GLOO_SOCKET_IFNAME": name} if command else {}
            launcher = (*torchrun, f"--node_rank={rank}")
            options = {"name": name, "command": command, "launcher": launcher, "loses": False, **device}
            yield Run(folder, *FIT, "--trainer.devices", 1, "--trainer.num_nodes", 2, *arguments, **options)

    yield start, cut
    for holder in reversed(holders):
        holder.kill()
        holder.wait()


def test_two_hosts_and_a_restart_give_the_same_weights(tmp_path, hosts, scratch_fit):
    start, _ = hosts
    often = ("--checkpoint.every_n_train_steps", 40)
    for name in ("whole", "again"):
        (tmp_path / name).mkdir()
    for run in list(start(tmp_path / "whole", *often, *lose("nothing"))):
        assert run.ends(120).status == 0, run.stderr
    whole = weights(tmp_path / "whole/runs/scratch/version_0")
    for name, tensor in weights(scratch_fit.run).items():
        torch.testing.assert_close(whole[name], tensor, rtol=0, atol=5e-6)

    launcher = (*TORCHRUN, "--max-restarts=1")
    run = Run(tmp_path / "again", *FIT, *often, *lose("kill", step=150), launcher=launcher).ends(2 * SOON)
    assert run.status == 0, run.stderr
    assert "continuing from runs/scratch/version_0/checkpoints/last.ckpt" in run.stdout
    assert re.search(LOST[1], run.stderr)
    first, again = (tmp_path / f"again/runs/scratch/version_{number}" for number in (0, 1))
    assert not (first / "report.json").exists()
    for name, tensor in weights(again).items():
        assert torch.equal(whole[name], tensor), name


def test_host_that_is_cut_off(tmp_path, hosts):
    start, cut = hosts
    near, far = start(tmp_path, *HANGS, "--trainer.max_epochs", 100_000)
    near.until(lambda: "epoch 2," in near.stdout)
    near.since = far.since = time.monotonic()
    cut(far)
    near.ends(18 + SOON).says(f"{SILENT[1]}|{LOST[1]}")  # whichever end of the connection notices first
    if far.process.args[0] != "nsenter":  # the far host came to a stop
        for pid in processes(far.token):
            os.kill(pid, signal.SIGKILL)
    far.ends(18 + SOON)
    if far.process.args[0] == "nsenter":
        far.says(r"error: torchrun at 10\.77\.0\.1 did not answer within --timeout")
