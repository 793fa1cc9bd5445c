"""Fit a GAN or a classifier: `python train.py experiment=talukdar/gan data.root=…`."""

from cxr.script.train import main

if __name__ == "__main__":
    main()
