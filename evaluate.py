"""Evaluate runs on their test images and report: `python evaluate.py runs=[talukdar-cnn*] report=talukdar`."""

from cxr.script.evaluate import main

if __name__ == "__main__":
    main()
