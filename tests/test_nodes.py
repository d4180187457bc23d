"""Training under torchrun: uneven shares, restarts after kills, two agents, steps in parts."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from common import Patch, assert_same_run, blobs, call, fails, python, tiny

from preprocess.errors import InputError
from train.checkpoint import MODEL_FILE, Checkpoint, epoch_file
from train.cli import main
from train.config import ModelConfig, TrainConfig
from train.distributed import Processes
from train.evaluate import evaluate_checkpoint
from train.loop import fit
from train.model import UNet, to_channels_last
from train.run_folder import read_run
from train.step import TrainStep

SMALL = ModelConfig(width=8, depth=2)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def words(pack: Path, output: Path) -> list[str]:
    """Return the words of a run of 3 epochs; of 20 samples 2 are left over in each."""
    return ["-m", "train", "--shards", str(pack), "--output", str(output), "--epochs", "3",
            "--batch", "6", "--loader", "portable", "--resume"]  # fmt: skip


@pytest.mark.slow
def test_no_sample_is_dropped_or_counted_twice(
    whole: TrainConfig, pack_root: Path, tmp_path: Path
) -> None:
    """20 samples for three processes: 7, 7 and 6."""
    model = whole.output / MODEL_FILE
    base = evaluate_checkpoint(model, pack_root, "train", loader="portable").evaluation
    assert base.metrics.f1 > 0.05
    given = ["evaluate", "--shards", pack_root, "--split", "train", "--model", model]
    done = python(*TORCHRUN[1:], "--nproc-per-node=3", "-m", "train", *given,
                  "--loader", "portable", "--output", tmp_path, env=ONE_THREAD)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = tmp_path.glob("*.json")
    assert json.loads(written.read_bytes())["metrics"] == asdict(base.metrics)


@pytest.fixture(scope="module")
def undisturbed(pack_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two processes, each under its own agent, as on two nodes."""
    output = tmp_path_factory.mktemp("nodes") / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rendezvous = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=eyes",
                  f"--rdzv-endpoint=127.0.0.1:{port}"]  # fmt: skip
    command = [*TORCHRUN, *rendezvous, *words(pack_root, output)]
    agents = [subprocess.Popen(command, env=ONE_THREAD, stderr=subprocess.PIPE) for _ in range(2)]
    said = [agent.communicate(timeout=240)[1].decode() for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert sum("2 process(es)" in each for each in said) == 1, "only the first process speaks"
    return output


@pytest.mark.slow
def test_two_agents_train_one_model(undisturbed: Path) -> None:
    losses = [row.loss for row in read_run(undisturbed)[1]]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def workers(agent: int) -> dict[str, int]:
    """Return the processes that an agent has started, by rank."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            lines = (process / "environ").read_bytes().split(b"\0") if parent == agent else []
        except OSError:  # it has ended
            continue
        found |= {line[5:].decode(): int(process.name) for line in lines if line[:5] == b"RANK="}
    return found


@only_linux
@pytest.mark.slow
def test_torchrun_restarts_what_is_killed_and_the_weights_are_the_same(
    undisturbed: Path, pack_root: Path, tmp_path: Path
) -> None:
    command = [*TORCHRUN, "--nproc-per-node=2", "--max-restarts=3", *words(pack_root, tmp_path)]
    with subprocess.Popen(command, env=ONE_THREAD, stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr
        said, killed = "", []
        for line in agent.stderr:
            said += line
            for epoch, rank in ((1, "1"), (2, "0")):  # the second time the one that holds the lock
                if line.startswith(f"epoch {epoch}/3") and rank not in killed:
                    wait_for(epoch_file(tmp_path, epoch))
                    os.kill(workers(agent.pid)[rank], signal.SIGKILL)
                    killed.append(rank)
    assert killed == ["1", "0"]
    assert agent.returncode == 0, said[-3000:]
    begun = [int(epoch) for epoch in re.findall(r"epochs (\d) to 3", said)]
    assert len(begun) == 3
    assert 0 == begun[0] < begun[1] < begun[2], "each goes on from the last checkpoint"
    assert not list(tmp_path.glob(".*.tmp"))
    assert_same_run(tmp_path, undisturbed)


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.01)


def test_processes_that_do_not_share_a_folder_are_refused(
    pack_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """A machine whose folder has no checkpoint would begin anew, the others would go on."""

    def gathered(found: list[Any], value: Any) -> None:
        found[:] = value, (value[0], 3)

    monkeypatch.setattr("torch.distributed.all_gather_object", gathered)
    assert Processes().have_the_same("one process")
    assert not Processes(0, 2).have_the_same(({}, 0))
    monkeypatch.setattr(Processes, "have_the_same", lambda self, value: False)
    with pytest.raises(InputError, match=r"differ among processes.*folders that their machines"):
        fit(tiny(pack_root, tmp_path))


def taken(parts: int, model: UNet, count: int = 8) -> tuple[float, torch.Tensor]:
    """Take a step in so many parts; return its loss and gradient."""
    step = TrainStep(to_channels_last(model), 5e-3, accumulate=parts)
    loss = float(step(*blobs(count), 1.0, 0.9))
    return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("parts", [2, 8])
def test_parts_add_up_to_the_whole_batch(parts: int) -> None:
    """Without batch statistics, which are those of a part."""
    found, sizes = [], []
    for each in (1, parts):
        torch.manual_seed(0)
        model = UNet(SMALL).eval()
        model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
        found.append(taken(each, model))
    assert sizes == [8] + [8 // parts] * parts
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=1e-6)
    assert float(found[0][1].norm()) > 0.1


def test_a_network_learns_in_parts() -> None:
    torch.manual_seed(0)
    step = TrainStep(to_channels_last(UNet(SMALL)), 5e-3, accumulate=2)
    images, masks = blobs(side=48)
    losses = [float(step(images, masks, 1.0, 0.9)) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]


SHARED = """
import sys
import torch
from common import blobs
from train.config import ModelConfig
from train.distributed import join_processes
from train.model import UNet, to_channels_last
from train.step import TrainStep
with join_processes("cpu") as (processes, device):
    torch.manual_seed(0)
    model = UNet(ModelConfig(8, 2)).eval()
    step = TrainStep(to_channels_last(model), 5e-3, processes=processes, accumulate=2)
    shared = []
    def count(state, bucket):
        shared.append(bucket.buffer().numel())
        work = torch.distributed.all_reduce(bucket.buffer() / 2, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])
    step._trained.register_comm_hook(None, count)
    mine = processes.share(8, 2)
    step(*(tensor[mine] for tensor in blobs(8)), 1.0, 0.9)
    if processes.is_first:
        assert sum(shared) == sum(p.numel() for p in model.parameters()), "shared once a step"
        torch.save([p.grad for p in model.parameters()], sys.argv[1])
"""


@pytest.mark.slow
def test_processes_share_gradients_once_a_step(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text(SHARED)
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    done = python(*TORCHRUN[1:], "--nproc-per-node=2", tmp_path / "shared.py", tmp_path / "grads",
                  env=ONE_THREAD | {"PYTHONPATH": path})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    torch.manual_seed(0)
    whole = taken(1, UNet(SMALL).eval())[1]
    grads = torch.cat([grad.flatten() for grad in torch.load(tmp_path / "grads")])
    torch.testing.assert_close(grads, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "message"),
    [("0", "--accumulate: is 0"), ("3", "8 samples cannot be shared by 1 x 3 parts")],
)
def test_parts_that_cannot_be_are_refused(
    pack_root: Path, tmp_path: Path, parts: str, message: str
) -> None:
    given = ["--shards", pack_root, "--output", tmp_path, "--batch", 8, "--accumulate", parts]
    fails(call(main, *given), message)


@pytest.mark.usefixtures("no_plots")
def test_a_run_goes_on_in_as_many_parts(copy: TrainConfig) -> None:
    path = epoch_file(copy.output, 4)
    saved = Checkpoint.load(path)
    del saved.training["decides"]["accumulate"]  # a run from before there was this setting
    saved.save(path)
    assert len(fit(replace(copy, epochs=5), resume=True).history) == 5
    with pytest.raises(InputError, match="was trained with accumulate=1, now it is 2"):
        fit(replace(copy, epochs=6, accumulate=2), resume=True)


def test_the_model_on_paper_is_its_formula_if_nothing_fails(monkeypatch: Patch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "bench")
    import scale_model as model

    never, often, epoch = math.inf, 8 * 3600.0, 600.0
    assert model.simulate_packing(99.0, 8, never, 0) == pytest.approx(99.0)
    assert model.simulate_training(epoch, 8, never, 0) == pytest.approx(25 * epoch)
    # A failure every hour: Daly, "A higher order estimate", 2006; checkpoints cost nothing.
    hour = often / 8
    expected = 25 * (hour + model.RESTART) * math.expm1(epoch / hour)
    assert model.simulate_training(epoch, 8, often, 0).mean() == pytest.approx(expected, rel=0.02)
    assert model.simulate_training(epoch, 8, never, 0.1).min() > 25 * epoch
