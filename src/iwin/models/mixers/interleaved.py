"""Interleaved window attention, IW-MSA (Iwin Transformer, Section II-B, Eqs. 1 to 5, Algorithm 1)."""

from __future__ import annotations

from iwin.models.mixers.window import WindowAttention
from iwin.models.spec import BlockSpec
from iwin.models.windows import Split, stride


class InterleavedAttention(WindowAttention):
    """Multi-head attention inside windows whose M x M tokens are spread evenly over the whole map.

    With Hg = H / M and Wg = W / M, the token at (i, j) joins window (i mod Hg, j mod Wg) and stands at
    (i // Hg, j // Wg) in it. There is no shift, and by default neither mask nor position embedding.
    """

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__(spec, shift=False)

    def splits(self) -> tuple[Split, Split]:
        return stride(self.window), stride(self.window)
