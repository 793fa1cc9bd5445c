"""Where a sweep stands: `python status.py` (the newest) or `python status.py runs/sweeps/NAME --watch 5`."""

from cxr.script.status import main

if __name__ == "__main__":
    main()
