"""Score synthetic images by a classifier run: `python score.py synthetic=[talukdar-gan] run=talukdar-cnn`."""

from cxr.script.score import main

if __name__ == "__main__":
    main()
