"""Two ranks that take the same updates with DDP and with shards, for tests: what differs goes to a file as JSON.

python sharded_steps.py RANK FOLDER
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import iwin
from iwin.train.freeze import freeze
from iwin.train.guard import SkipUpdate, UpdateGuard, spoil_gradients
from iwin.train.optim import Optimizer
from iwin.train.sharded import ELEMENTWISE, shard

UPDATES = 3
CASES: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in ELEMENTWISE},
    "fused": {"options": {"fused": True}},
    "bf16": {"autocast": True},
    "frozen": {"frozen": ["patch_embed.*", "layers.0.*"]},
    "by value": {"clip": 1e-3, "by_value": True},
    "by norm": {"name": "sgd", "clip": 1e-2},
    "accumulated": {"name": "sgd", "micro": 2},
    "not finite": {"bad": (1, 1)},
    "not finite, fused": {"bad": (1, 1), "options": {"fused": True}},
}


def updates(
    sharded: bool,
    name: str = "adamw",
    options: dict[str, Any] | None = None,
    clip: float = 0.0,
    by_value: bool = False,
    autocast: bool = False,
    frozen: tuple[str, ...] = (),
    micro: int = 1,
    bad: tuple[int, int] | None = None,
) -> tuple[dict[str, Tensor], list[bool]]:
    """The weights after some updates, whole, and which of these were skipped.

    bad: an update and a rank whose loss shall not be finite.
    """
    torch.manual_seed(0)
    model: nn.Module = iwin.create_model("iwin_micro", num_classes=10, drop_path_rate=0.2)
    freeze(model, frozen)
    called: nn.Module = model
    if sharded:
        shard(model)
    else:
        called = DistributedDataParallel(model)
    rank = dist.get_rank()
    optimizer = Optimizer(name, 1e-2, 0.05, options or {}).build(model, 1.0)
    guard, skipped = UpdateGuard(model), []
    for update in range(UPDATES):
        guard.begin()
        for part in range(micro):
            torch.manual_seed(1000 * update + 10 * part + rank)  # also of drop-path
            images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
            ahead = sharded or part == micro - 1
            with nullcontext() if ahead else called.no_sync():  # type: ignore[operator]
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    logits = called(images)
                loss = F.cross_entropy(logits.float(), labels) / micro
                if bad == (update, rank):
                    loss = loss * torch.tensor(float("nan"))
                spoil_gradients(loss)
                loss.backward()
        try:
            guard.pass_or_skip(optimizer, clip=clip, by_value=by_value)
            optimizer.step()
        except SkipUpdate:
            pass
        assert guard.skipped is not None
        skipped.append(bool(guard.skipped))
        optimizer.zero_grad()
    whole = {
        key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in model.state_dict().items()
    }
    return {key: value.clone() for key, value in whole.items()}, skipped


def main() -> None:
    """Run as a rank; each writes what it found."""
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for case, told in CASES.items():
        (ours, skipped), (theirs, expected) = updates(True, **told), updates(False, **told)
        assert list(ours) == list(theirs)
        furthest = max(float((ours[key] - theirs[key]).abs().max()) for key in ours)
        equal = all(torch.equal(ours[key], theirs[key]) for key in ours)
        found[case] = {"equal": equal, "furthest": furthest, "skipped": skipped, "expected": expected}
    (folder / f"found-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
