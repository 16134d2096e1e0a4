"""Windows, mixers, backbones and heads. Imports `iwin.batch` and `iwin.errors` of ours, nothing else."""
