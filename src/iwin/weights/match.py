"""The entries of a source laid on those of a model: what becomes of each, and what is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from iwin.errors import WeightsError
from iwin.models.protocol import WindowTransformer
from iwin.models.spec import image_size, map_sizes
from iwin.weights import config, formats
from iwin.weights.imagenet22k import CLASSES_1K, CLASSES_22K, rows_of_1k
from iwin.weights.read import Weights
from iwin.weights.report import LoadReport, Shape

SHOWN = 4  # problems of one kind in a message
_LOCAL = re.compile(r"layers\.(\d+)\.blocks\.\d+\.(local|norm_local)\.")


class Match:
    """Built, then its steps in the order below, then `values` is the state dict to load.

    allowed: patterns by the name of the argument that gave them: allow_missing, allow_unused, allow_config.
    """

    def __init__(self, model: nn.Module, weights: Weights, allowed: Mapping[str, Iterable[str]]) -> None:
        self.model, self.weights = model, weights
        ours = isinstance(model, WindowTransformer)
        self.naming = formats.naming_of(weights.tensors) if ours else formats.AS_GIVEN
        self.own: dict[str, Tensor] = dict(model.state_dict())
        self.values = dict(self.own)
        self.unused = {key: list(patterns) for key, patterns in allowed.items()}
        self.allowed = {key: tuple(patterns) for key, patterns in self.unused.items()}
        self.recomputed = tuple(name for name in weights.tensors if ours and formats.is_recomputed(name))
        self.theirs: dict[str, str] = {}  # our name -> theirs, for all that is not recomputed
        self.loaded: dict[str, str] = {}
        self.resized: dict[str, tuple[Shape, Shape]] = {}
        self.initialised: dict[str, str] = {}
        self.ignored = dict.fromkeys(weights.beside, "no tensor")
        self.notes: list[str] = []
        self.problems: dict[str, list[str]] = {}
        for name in weights.tensors:
            if name not in self.recomputed:
                own = formats.to_ours(name, self.naming)
                if self.theirs.setdefault(own, name) != name:
                    self._problem("names", f"{name} and {self.theirs[own]} are both {own} here")
        heads = _head_prefixes(model)
        self.own_head = [name for name in self.values if name.startswith(heads)]
        self.their_head = [name for name in self.theirs if name.startswith(heads)]

    def compare_configurations(self) -> None:
        """Hold what shapes do not show against the model, or say what is assumed."""
        if not isinstance(self.model, WindowTransformer):
            return
        if self.weights.config is not None:
            found = config.differences(self.weights.config, self.model)
        else:
            found = config.released_padding(self.model, self.naming)
            rows = [_rows(self._tensor(name)) for name in self.their_head if name.endswith(".weight")]
            self.notes += config.assumptions(self.model, rows[0] if rows else None)
        for key, text in found.items():
            if self._allows("allow_config", key):
                self.notes.append(f"by allow_config: {text}")
            else:
                self._problem("configuration", text)

    def arrange_head(self, head: str) -> None:
        """Leave the source's head out (`reset`), or take the rows of 1K from one of 22K (`map_22k_to_1k`)."""
        if head == "reset":
            self.ignored |= {self.theirs.pop(name): "init.head=reset" for name in self.their_head}
            self.initialised |= dict.fromkeys(self.own_head, "as in the model, by init.head=reset")
        elif head == "map_22k_to_1k":
            rows, classes = ([_rows(t) for t in found] for found in self._heads())
            if set(rows) != {CLASSES_22K} or set(classes) != {CLASSES_1K}:
                raise WeightsError(
                    f"init.head=map_22k_to_1k makes a head of {CLASSES_1K} classes of one of {CLASSES_22K}; "
                    f"{self.weights.source} has {rows[0] if rows else 'none'}, the model {classes[0] if classes else 0}"
                )
            for name in set(self.own_head) & set(self.their_head):
                self._take(name, self._tensor(name)[torch.tensor(rows_of_1k())], tuple(self._tensor(name).shape))
            self.notes.append(f"head: the rows of the {CLASSES_1K} classes of ImageNet-1K, by synset")

    def _heads(self) -> tuple[list[Tensor], list[Tensor]]:
        return [self._tensor(name) for name in self.their_head], [self.values[name] for name in self.own_head]

    def fit(self) -> None:
        """Take what the model has by that name, in its shape or made to fit by the module that owns it."""
        for name in self.theirs:
            if name in self.values and name not in self.loaded:
                try:
                    self._take(name, *self._fitted(name))
                except (WeightsError, ValueError) as error:
                    self._problem("shape", f"{self.theirs[name]}: {error}")

    def _fitted(self, name: str) -> tuple[Tensor, Shape | None]:
        """An entry in the shape that the model needs, and the shape that it was resized from, if it was."""
        tensor, wanted = self._tensor(name), self.values[name].shape
        if name == "positions.absolute.table" and self.naming == formats.RELEASED:
            carried = self.weights.config
            known = None if carried is None else map_sizes(image_size(carried["img_size"]), 1)[0]
            tensor = formats.absolute_to_ours(tensor, (wanted[1], wanted[2]), known)
        fitted = getattr(self.model.get_submodule(name.rpartition(".")[0]), "fitted", None)
        if fitted is None or tensor.shape == wanted:
            return tensor, None
        return fitted(tensor.float()), tuple(tensor.shape)

    def _take(self, name: str, tensor: Tensor, there: Shape | None) -> None:
        """Note `tensor` as the value of `name`, resized from `there`; or note what is wrong with it."""
        theirs, own = self._tensor(name), self.values[name]
        if theirs.is_floating_point() != own.is_floating_point():
            self._problem("shape", f"{self.theirs[name]} is of {theirs.dtype}, the model has {own.dtype}")
        elif theirs.is_floating_point() and not bool(torch.isfinite(theirs).all()):
            self._problem("value", f"{self.theirs[name]} holds values that are not finite")
        elif tensor.shape != own.shape:
            text = f"{self.theirs[name]} is {tuple(theirs.shape)}, the model has {name} of {tuple(own.shape)}"
            self._problem("shape", text + self._head_hint(name))
        else:
            self.values[name], self.loaded[name] = tensor, self.theirs[name]
            if there is not None:
                self.resized[name] = (there, tuple(own.shape))

    def _head_hint(self, name: str) -> str:
        if name not in self.own_head:
            return ""
        maps = (_rows(self._tensor(name)), _rows(self.values[name])) == (CLASSES_22K, CLASSES_1K)
        return ": set init.head=reset" + (" or init.head=map_22k_to_1k" if maps else "")

    def explain_missing(self) -> None:
        """Local mixers that appear start at zero; other entries of the model must be loaded, or allowed."""
        appearing = self._appearing_stages()
        doubled = isinstance(self.model, WindowTransformer) and self.model.config["structure"] == "S2"
        for name, tensor in self.values.items():
            if name in self.theirs or name in self.initialised:
                continue
            local = _LOCAL.match(name)
            if local and int(local[1]) in appearing and not doubled:
                self.initialised[name] = "as in the model"
                if local[2] == "local":
                    self.values[name] = torch.zeros_like(tensor)
                    self.initialised[name] = "at zero, so that the model begins as the function that was loaded"
            elif self._allows("allow_missing", name):
                self.initialised[name] = "as in the model, by allow_missing"
            elif local and int(local[1]) in appearing:
                self._problem("missing", f"{name} is missing: in structure S2 it cannot appear without effect")
            elif name in self.own_head:
                self._problem("missing", f"{name} is missing: set init.head=reset")
            else:
                unused = [theirs for ours, theirs in self.theirs.items() if ours not in self.values]
                self._problem("missing", f"{name} is missing", (name, unused))

    def _appearing_stages(self) -> set[int]:
        """The stages without a local mixer in the source, because its attention saw the whole map there."""
        if not isinstance(self.model, WindowTransformer):
            return set()
        if self.weights.config is not None:
            return {stage.stage for stage in config.plan_of(self.weights.config) if stage.is_global}
        have = {int(local[1]) for name in self.theirs if (local := _LOCAL.match(name))}
        return {stage.stage for stage in self.model.plan if have and stage.stage > max(have)}

    def explain_unused(self) -> None:
        """What the model has no place for must be allowed."""
        for ours, theirs in self.theirs.items():
            if ours in self.values:
                continue
            if self._allows("allow_unused", theirs):
                self.ignored[theirs] = "allow_unused"
            elif ours in self.their_head:
                self._problem("unknown", f"{theirs}: the model has no head; set init.head=reset")
            elif isinstance(self.model, WindowTransformer) and _LOCAL.match(ours):
                why = "none in its mixer, no kernel, or an attention that sees the whole map"
                self._problem("unknown", f"{theirs}: the model has no local mixer in that stage ({why})")
            else:
                self._problem("unknown", f"{theirs} is unknown", (ours, self.values))

    def raise_problems(self) -> None:
        """WeightsError with the first problems of each kind, or for patterns that matched nothing."""
        lines = []
        for texts in self.problems.values():
            lines += texts[:SHOWN]
            lines += [f"and {len(texts) - SHOWN} more of this kind"] if len(texts) > SHOWN else []
        if lines:
            raise WeightsError(f"{self.weights.source} does not fit this model:\n  " + "\n  ".join(lines))
        what = {"allow_missing": "missing", "allow_unused": "unused", "allow_config": "different"}
        for key, patterns in self.unused.items():
            if patterns:
                raise WeightsError(f"{key}: {patterns[0]!r} matches nothing that is {what[key]}: take it out")

    def report(self) -> LoadReport:
        """What became of everything."""
        other = {str(self._tensor(name).dtype) for name in self.loaded} - {str(t.dtype) for t in self.own.values()}
        if other:
            self.notes.append(f"the weights are of {', '.join(sorted(other))}")
        return LoadReport(
            source=self.weights.source,
            naming=self.naming,
            loaded=self.loaded,
            resized=self.resized,
            recomputed=self.recomputed,
            initialised=self.initialised,
            ignored=self.ignored,
            notes=tuple(self.notes),
        )

    def _tensor(self, ours: str) -> Tensor:
        return self.weights.tensors[self.theirs[ours]]

    def _allows(self, key: str, name: str) -> bool:
        """Whether a pattern of the argument `key` matches `name`; all that do count as used."""
        found = [pattern for pattern in self.allowed[key] if fnmatchcase(name, pattern)]
        self.unused[key] = [pattern for pattern in self.unused[key] if pattern not in found]
        return bool(found)

    def _problem(self, kind: str, text: str, like: tuple[str, Iterable[str]] | None = None) -> None:
        """Note a problem; `like` is a name and those among which the nearest to it may help."""
        texts = self.problems.setdefault(kind, [])
        if like is not None and len(texts) < SHOWN:  # comparing names takes time: only for what is shown
            near = difflib.get_close_matches(like[0], list(like[1]), n=2, cutoff=0.6)
            text += f"; the nearest: {' or '.join(near)}" if near else ""
        texts.append(text)


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 0


def _head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """How the names of the classifier's parameters begin; nothing for a model that does not tell."""
    get: Any = getattr(model, "get_classifier", tuple)
    classifier = get()
    modules = classifier if isinstance(classifier, tuple) else (classifier,)
    return tuple(f"{name}." for name, module in model.named_modules() if any(module is m for m in modules))
