"""The papers' own top-1 accuracies on ImageNet-1K, to stand beside ours (Iwin, Table I)."""

from __future__ import annotations

# (model, image side in pixels, pre-trained on ImageNet-22K) -> top-1 in %
TOP1: dict[tuple[str, int, bool], float] = {
    ("iwin_t", 224, False): 82.0,
    ("iwin_s", 224, False): 83.4,
    ("iwin_s", 384, False): 84.3,
    ("iwin_s", 512, False): 84.4,
    ("iwin_s", 1024, False): 83.8,
    ("iwin_b", 224, False): 83.5,
    ("iwin_b", 384, False): 84.9,
    ("iwin_b", 512, False): 85.1,
    ("iwin_b", 1024, False): 85.0,
    ("iwin_b", 224, True): 85.5,
    ("iwin_b", 384, True): 86.6,
    ("iwin_b", 512, True): 86.1,
    ("iwin_b", 1024, True): 85.6,
    ("iwin_l", 224, True): 86.4,
    ("iwin_l", 384, True): 87.4,
    ("swin_t", 224, False): 81.3,
    ("swin_s", 224, False): 83.0,
    ("swin_b", 224, False): 83.3,
    ("swin_b", 384, False): 84.5,
    ("swin_b", 224, True): 85.2,
    ("swin_b", 384, True): 86.4,
    ("swin_l", 224, True): 86.3,
    ("swin_l", 384, True): 87.3,
}
