"""Training hierarchical window-attention vision transformers: Swin and Iwin."""

from iwin.models.protocol import WindowTransformer
from iwin.models.zoo import create_model

__version__ = "0.1.0"
__all__ = ["WindowTransformer", "create_model"]
