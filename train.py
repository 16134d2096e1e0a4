"""Train a model: python train.py [group=option ...] [key=value ...]; --help shows what there is."""

from iwin.app import main

if __name__ == "__main__":
    main("train")
