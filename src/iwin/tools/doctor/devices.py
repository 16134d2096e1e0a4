"""GPUs, their driver, and the number formats that the processors here have."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import torch

from iwin.tools.doctor.finding import Check, Finding, gigabytes, ok, warning, wrong
from iwin.tools.doctor.job import Job

CPU_FACTS = Path("/proc/cpuinfo")
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # of x86 and of Arm processors
MOSTLY_FREE = 0.9  # of a GPU's memory, where nobody else uses it
ASK_S = 30  # for nvidia-smi, which hangs where a driver does


def checks(job: Job, *, gpu: bool) -> list[Check]:
    """gpu: whether a machine without one is wrong."""
    return [Check("gpu", lambda: gpus(required=gpu)), Check("precision", lambda: precision(job.precision))]


def gpus(*, required: bool) -> Finding | list[Finding]:
    """Every GPU does a small product; or why there is none."""
    told = told_by_driver()
    if torch.cuda.is_available():
        return [one_gpu(index, told) for index in range(torch.cuda.device_count())]
    if told:
        if torch.version.cuda is None:
            return wrong(f"there is {told[0]}, and this torch is built for CPUs", "install torch for CUDA")
        return wrong(
            f"there is {told[0]}, and torch, built for CUDA {torch.version.cuda}, cannot use it: {why_no_cuda()}",
            "update the driver, or install torch for an older CUDA; see also CUDA_VISIBLE_DEVICES",
        )
    if required:
        return wrong("there is no GPU (nvidia-smi shows none)", "ask for one: docker run --gpus all, sbatch --gres")
    return ok("there is none: training runs on the CPU")


def told_by_driver() -> list[str]:
    """A line for each GPU that nvidia-smi shows: name, driver. Empty without it, or where it finds none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=ASK_S, check=False)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def why_no_cuda() -> str:
    """What torch says when it is asked to use CUDA."""
    try:
        torch.cuda.init()
    except Exception as error:  # whatever it is, it is the answer
        return str(error).splitlines()[0]
    return "it finds no device"


def one_gpu(index: int, told: list[str]) -> Finding:
    """Device `index` multiplies, and its memory is free."""
    name = torch.cuda.get_device_name(index)
    ones = torch.ones(64, 64, device=f"cuda:{index}")
    if not bool(((ones @ ones) == 64).all()):
        return wrong(f"{index}: {name} multiplies wrongly", "do not use this device: CUDA_VISIBLE_DEVICES")
    free, total = torch.cuda.mem_get_info(index)
    driver = told[index].rpartition(",")[2].strip() if index < len(told) else "unknown"
    said = f"{index}: {name}, {gigabytes(free)} of {gigabytes(total)} free, driver {driver}, CUDA {torch.version.cuda}"
    if free < MOSTLY_FREE * total:
        return warning(said, "somebody else uses it: nvidia-smi shows who")
    return ok(said)


def precision(name: str) -> Finding:
    """Whether the devices here have the configured number format."""
    on_gpu = torch.cuda.is_available()
    if name == "32-true":
        return ok("32-true runs everywhere")
    if name == "16-mixed" and not on_gpu:
        return wrong("trainer.precision=16-mixed needs a GPU", "set trainer.precision=bf16-mixed or 32-true")
    if name == "bf16-mixed" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        return wrong(f"{torch.cuda.get_device_name(0)} has no bfloat16", "set trainer.precision=16-mixed or 32-true")
    if name == "bf16-mixed" and not on_gpu and not cpu_has_bf16():
        return warning("this CPU has no bfloat16 and emulates bf16-mixed slowly", "set trainer.precision=32-true")
    return ok(f"{name} is supported")


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    if not CPU_FACTS.is_file():
        return False
    words = set(CPU_FACTS.read_text().split())
    return any(flag in words for flag in BF16_FLAGS)
