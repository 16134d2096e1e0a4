"""Evaluate a checkpoint: python eval.py checkpoint=<run folder or file> [key=value ...]."""

from iwin.app import main

if __name__ == "__main__":
    main("eval")
