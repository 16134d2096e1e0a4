"""Training hierarchical window-attention vision transformers: Swin and Iwin."""

import os

# Before torch loads OpenMP, which reads it once: threads that wait shall sleep, not spin. Where more threads
# than cores want to run (workers, ranks, neighbours), spinning made training on a CPU seven times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Before webdataset is imported, which reads it once: it then opens no `pipe:` URL, which would run a command.
os.environ.setdefault("WDS_SECURE", "1")

from iwin.imports import no_collection

with no_collection():
    from iwin.models.protocol import WindowTransformer
    from iwin.models.zoo import create_model
    from iwin.weights.load import load_pretrained
    from iwin.weights.report import LoadReport

__version__ = "0.1.0"
__all__ = ["LoadReport", "WindowTransformer", "create_model", "load_pretrained"]
