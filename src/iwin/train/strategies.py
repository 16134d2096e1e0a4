"""The strategies of our trainers, by the names that trainer.strategy has for them."""

from __future__ import annotations

from datetime import timedelta

from lightning.pytorch.strategies import StrategyRegistry

from iwin.train.launcher import Ranks
from iwin.train.sharded import NAME, Sharded


def use_ranks(setup_s: float) -> None:
    """Make `auto` and `ddp` of Lightning's trainers `Ranks`, and `sharded` `Sharded`, with this timeout in seconds."""
    described = {
        "ddp": (Ranks, "DDP whose processes on one machine begin and end together"),
        NAME: (Sharded, "the same, with parameters, gradients and optimizer state shared out"),
    }
    for name, (strategy, description) in described.items():
        StrategyRegistry.register(
            name, strategy, description=description, override=True, timeout=timedelta(seconds=setup_s)
        )
