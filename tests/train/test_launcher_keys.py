"""The keys of hydra/launcher=slurm are checked one by one, and none that submitit has is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf
from submitit.slurm.slurm import SlurmExecutor

from iwin.conf import conf_dir
from iwin.errors import ConfigError
from iwin.train.launcher_keys import KEYS, check_launcher, parameters, processes

# Under other names here, or refused.
NOT_HERE = {"job_name", "time", "ntasks_per_node", "num_gpus", "use_srun"}


def test_all_keys_of_submitit_are_there() -> None:
    theirs = set(SlurmExecutor._valid_parameters())
    assert theirs - set(KEYS) == NOT_HERE
    assert set(KEYS) - theirs == {"name", "mem_gb", "timeout_min", "tasks_per_node", "requeue"}


@pytest.mark.parametrize(
    "file", [conf_dir() / "hydra" / "launcher" / "slurm.yaml", conf_dir() / "local" / "example_slurm.yaml"], ids=str
)
def test_what_the_files_have_is_taken(file: Any) -> None:
    keys = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(keys, dict)
    check_launcher({str(key): value for key, value in keys.items() if key != "defaults"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mem_gb", 1.5),
        ("mem_gb", 0),
        ("account", 12),
        ("exclusive", True),
        ("exclusive", "user"),
        ("srun_args", ["--mpi=none"]),
        ("additional_parameters", {"reservation": "mine", "overcommit": True, "nice": 10}),
        ("timeout_min", 0),
        ("requeue", False),
        ("gpus_per_node", None),
        ("teardown", []),
    ],
)
def test_what_slurm_takes_is_taken(key: str, value: Any) -> None:
    check_launcher({key: value})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("timeout_min", "24h", "timeout_min must be a whole number of at least 0, got 24h"),
        ("gpus_per_node", "a100:8", r"got a100:8\. GPUs of a kind: .*gres=gpu:a100:8"),
        ("nodes", 0, "nodes must be a whole number of at least 1"),
        ("nodes", True, "nodes must be a whole number"),
        ("mem_gb", "lots", "mem_gb must be a number"),
        ("setup", "foo", r"setup must be a list of texts, as hydra.launcher.setup=\[one,two\], got 'foo'"),
        ("setup", [1], "setup must be a list of texts"),
        ("teardown", {"a": "b"}, "teardown must be a list of texts"),
        ("requeue", "no", "requeue must be true or false"),
        ("account", ["a", "b"], "account must be a text in one line"),
        ("comment", "a\n#SBATCH --exclusive", "comment must be a text in one line"),
        ("additional_parameters", "reservation=mine", "additional_parameters must be options of sbatch"),
        ("additional_parameters", {"nice": None}, "additional_parameters.nice must be"),
        ("use_srun", True, "use_srun has no place here: it is srun that starts a process for each device"),
        ("nodez", 2, "there is no key 'nodez'; did you mean nodes"),
        ("time", "24:00", "there is no key .time.; did you mean .*timeout_min"),
    ],
)
def test_what_is_wrong_is_named(key: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_launcher({key: value})


def test_a_process_for_each_device() -> None:
    assert processes({"nodes": 2, "gpus_per_node": 8, "tasks_per_node": None}) == (2, 8)
    assert processes({"nodes": 2, "gpus_per_node": 8, "tasks_per_node": 4}) == (2, 4)
    assert processes({}) == (1, 1)


def test_the_end_of_the_script_is_ours_and_then_the_site_s() -> None:
    assert parameters({}, "ours")["slurm_teardown"] == ["ours"]
    ours, *keep, theirs = parameters({"teardown": ["theirs"]}, "ours")["slurm_teardown"]
    assert (ours, theirs) == ("ours", "theirs")
    assert keep
    assert parameters({}, "")["slurm_additional_parameters"] == {"requeue": True}
    assert parameters({"requeue": False}, "")["slurm_additional_parameters"] == {"no-requeue": True}
