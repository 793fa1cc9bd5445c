"""Choose among the images of a synthetic set: `python curate.py synthetic=NAME filter=review 'filter.csv=[…]'`."""

from cxr.script.curate import main

if __name__ == "__main__":
    main()
