"""What training would fail with: collected, so that one plan tells all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException

from iwin.app import explain
from iwin.errors import UserError
from iwin.secrets import redact

Made = TypeVar("Made")


class Problems:
    """The messages, each once, in the order in which training would meet them."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def of(self, make: Callable[[], Made]) -> Made | None:
        """What `make` returns; None where it raises what the programs tell users, which is noted."""
        try:
            return make()
        except (UserError, InstantiationException, OmegaConfBaseException) as error:
            message = str(redact(explain(error, "train")))
            if message not in self.messages:
                self.messages.append(message)
            return None
