import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from two_processes import share_the_work

import slotlab
from slotlab.distributed import make_fabric
from slotlab.errors import ConfigError
from slotlab.training.checkpoint import newest_checkpoint, read_history, read_trainer, step_folder
from slotlab.training.setup import check_data

SCRIPT = Path(__file__).with_name("two_processes.py")


def in_processes(count, *words, script=(str(SCRIPT),), monitor_interval=0.1):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    command += ["--master-port", str(port), "--monitor-interval", str(monitor_interval), *script, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def alone_and_shared(tiny_preset, squares, feature_net, tmp_path_factory):
    """The folders of the same work done by one process and by two."""
    alone, shared = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("shared")
    share_the_work(tiny_preset, str(squares), alone, str(feature_net))
    done = in_processes(2, "share", tiny_preset, squares, shared, feature_net)
    assert done.returncode == 0, done.stderr[-3000:]
    return alone, shared


@pytest.mark.parametrize("run", ["run", "clips"])
def test_gradients_are_those_of_one_process(alone_and_shared, run):
    # after one step, Adam's first moment is a tenth of the clipped gradient
    one, two = (read_trainer(step_folder(folder / run, 1))["optimizer"]["state"] for folder in alone_and_shared)
    for number, state in one.items():
        torch.testing.assert_close(10 * two[number]["exp_avg"], 10 * state["exp_avg"], atol=1e-6, rtol=0)


def test_a_run_has_the_losses_of_all_processes_and_the_scores_of_one(alone_and_shared):
    one, two = (read_trainer(step_folder(folder / "run", 1))["losses"] for folder in alone_and_shared)
    assert len(one) == 1
    torch.testing.assert_close(two, one)
    alone, shared = (read_history(folder / "run")[-1] for folder in alone_and_shared)
    for name in ("train_loss", "validation_loss", "ari", "fg_ari"):
        assert shared[name] == pytest.approx(alone[name], abs=1e-5), name
    assert json.loads((alone_and_shared[1] / "run" / "training.json").read_text())["processes"] == 2


def test_each_image_is_evaluated_once_and_all_processes_know_the_scores(alone_and_shared):
    alone, shared = alone_and_shared
    one = json.loads((alone / "metrics-0.json").read_text())
    first, second = (json.loads((shared / f"metrics-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["protocol"]["images"] == one["protocol"]["images"] == 7
    for number in ("slots_used", "mask_entropy", "attention_change", "background_slots", "slot_use"):
        assert first["diagnostics"][number] == pytest.approx(one["diagnostics"][number], rel=1e-5), number
    for source in ("masks", "attention", "reconstruction"):
        assert first[source] == pytest.approx(one[source], rel=1e-6, abs=1e-6), source


def test_each_clip_is_evaluated_once(alone_and_shared):
    one, first, second = (
        json.loads((folder / f"clips-{rank}.json").read_text())
        for folder, rank in zip((alone_and_shared[0], *[alone_and_shared[1]] * 2), (0, 0, 1), strict=True)
    )
    assert first == second and one["video"]["masks"]["ari"]["count"] == 3
    for name, score in one["video"]["masks"].items():
        assert first["video"]["masks"][name] == pytest.approx(score, rel=1e-6, abs=1e-6), name


def test_the_table_of_slots_is_the_same(alone_and_shared):
    one, two = (load_file(folder / "library" / "slots.safetensors") for folder in alone_and_shared)
    assert one.keys() == two.keys()
    for name in ("position", "index", "number", "background", "concept"):
        assert np.array_equal(one[name], two[name]), name
    np.testing.assert_allclose(two["slots"], one["slots"], atol=1e-5)
    for folder in alone_and_shared:
        assert not list((folder / "library").rglob(".*"))  # nothing temporary is left


def test_compositions_are_shared_out_and_complete(alone_and_shared):
    for folder in alone_and_shared:
        assert len(list((folder / "new" / "images").glob("*.png"))) == 7
        assert (folder / "new" / "scores.json").is_file()


def test_images_to_segment_are_shared_out_and_listed_once(alone_and_shared):
    one, two = ({path.name for path in (folder / "segments").iterdir()} for folder in alone_and_shared)
    assert one == two
    assert len(one) == 7 * (4 + 4) + 2  # four masks, reconstruction, segmentation, overlay and slots; listing, settings
    rows = (alone_and_shared[1] / "segments" / "segments.csv").read_text().splitlines()
    assert len(rows) == 1 + 7


def test_commands_share_their_work_and_speak_once(tiny_preset, squares, tmp_path):
    torch.manual_seed(0)
    slotlab.save(slotlab.create_model(tiny_preset), tmp_path / "model")
    words = ("evaluate", tmp_path / "model", "--data", squares, "--split", "all", "--device", "cpu", "--threads", 1)
    done = in_processes(2, *words, script=("-m", "slotlab"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("FG-ARI") == 1
    written = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert written["details"]["masks"]["ari"]["count"] == 40


def test_when_a_process_dies_the_other_says_so_and_the_last_checkpoint_loads(tiny_preset, squares, tmp_path):
    # torchrun ends the other if it sees that one is gone; checked rarely, the other speaks first.
    done = in_processes(2, "die", tiny_preset, squares, tmp_path, monitor_interval=5)
    assert done.returncode != 0
    assert "another process has ended or cannot be reached" in done.stderr
    checkpoint = newest_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert f"The last checkpoint is {checkpoint}: add --resume to continue" in done.stderr
    assert slotlab.load(checkpoint).slots == 4
    assert json.loads((checkpoint / "training.json").read_text())["steps"] == 6


def test_torchrun_ends_with_the_sentence_of_the_command(tiny_preset, squares, tmp_path):
    words = ("train", tiny_preset, "--data", squares, "--out", tmp_path / "run", "--device", "cpu", "batch_size=3")
    done = in_processes(2, *words, script=("-m", "slotlab"))
    assert done.returncode != 0
    root_cause = done.stderr.rpartition("Root Cause")[2]
    assert "slotlab: training.accumulate: batch_size=3 does not divide into 1 equal parts" in root_cause


@pytest.mark.parametrize("size", ["a", "0", "9" * 5000, None])
def test_a_number_of_processes_that_is_none_is_named(run_slotlab, tiny_preset, tmp_path, monkeypatch, size):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    for words in (["train", tiny_preset, "--out", tmp_path / "run"], ["models"]):
        err = run_slotlab.refused(*words)
        assert f"slotlab: WORLD_SIZE={size or ''}: must be the number of processes; start with torchrun" in err


def test_more_processes_than_images_are_refused_in_training(squares):
    few = slotlab.open_data(squares, split="train", resolution=16, count=3)
    with pytest.raises(ConfigError, match="3 training images for 4 processes; start at most 3"):
        check_data(few, 4)
    check_data(few, 3)


def test_a_gpu_without_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(ConfigError, match=r"training.precision: Tesla T4 does not compute in bfloat16; use .*fp32"):
        make_fabric("cuda", 1, 1, "bf16")


# Prints the number of turns when torch begins to load, which is when libgomp reads it.
NOTICES = """
import os, sys
class Notice:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            os._exit(0)
sys.meta_path.insert(0, Notice())
"""


@pytest.mark.parametrize(("before", "after"), [(None, "50000"), ("7", "7")])
@pytest.mark.parametrize("begun", ["slotlab.training.loop", "slotlab.cli.training", "slotlab.studio.app"])
def test_threads_give_busy_cores_away_unless_the_user_chose(begun, before, after):
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {} if before is None else {"GOMP_SPINCOUNT": before}
    command = [sys.executable, "-c", f"{NOTICES}\nimport {begun}\nimport torch"]
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip() == after


def test_workers_inherit_how_long_threads_wait():
    class Setting(torch.utils.data.Dataset):
        def __getitem__(self, index):
            return os.environ["GOMP_SPINCOUNT"]

    assert (
        next(iter(torch.utils.data.DataLoader(Setting(), None, sampler=[0], num_workers=1)))
        == os.environ["GOMP_SPINCOUNT"]
    )
