"""Make a synthetic set from a GAN run: `python generate.py run=talukdar-gan n=1500`."""

from cxr.script.generate import main

if __name__ == "__main__":
    main()
