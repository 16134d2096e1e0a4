"""Scaled dot-product attention inside windows: the only place that chooses a kernel.

Shapes: B images, G windows of an image, h heads, N tokens of a window, d channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# On a CPU the explicit form is faster for training and in bfloat16; the fused one for float32 from
# about 256 tokens a window on, where it also needs half the memory.
CPU_FUSED_TOKENS = 256


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v over the tokens of each window.

    q, k, v: (B * G, h, N, d), the windows of an image together.
    bias: (h, N, N), added to the scaled products; the same in every window.
    mask: (G, N or 1, N) bool, False where a query must not see a key; the same for every image and head.
        No query may be without any key.
    dropout: probability with which an attention weight is dropped (0 outside training).
    Returns (B * G, h, N, d).
    """
    if q.device.type in ("cpu", "meta") and (q.dtype != torch.float32 or q.shape[-2] < CPU_FUSED_TOKENS):
        return _explicit(q, k, v, bias, mask, dropout)
    return F.scaled_dot_product_attention(q, k, v, _scores_offset(q, bias, mask), dropout)


def _explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None, dropout: float) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if mask is not None:
        windows, (heads, tokens) = mask.shape[0], scores.shape[1:3]
        scores = scores.view(-1, windows, heads, tokens, tokens).masked_fill(~mask[:, None], float("-inf"))
        scores = scores.view(-1, heads, tokens, tokens)
    weights = F.dropout(scores.softmax(dim=-1), dropout, training=dropout > 0)
    return weights @ v


def _scores_offset(q: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Bias and mask as the one float tensor, broadcast to (B * G, h, N, N), that the fused kernels take."""
    if mask is None:
        return None if bias is None else bias.to(q.dtype).expand(q.shape[0], -1, -1, -1)
    windows, (heads, tokens) = mask.shape[0], q.shape[1:3]
    blocked = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
    offset = blocked[:, None] if bias is None else blocked[:, None] + bias.to(q.dtype)
    offset = offset.expand(windows, heads, tokens, tokens)
    images = q.shape[0] // windows
    return offset.expand(images, windows, heads, tokens, tokens).reshape(-1, heads, tokens, tokens)
