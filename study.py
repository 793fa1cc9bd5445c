"""Run all stages of a paper: `python study.py study=talukdar data_root=… scale=tiny`."""

from cxr.script.study import main

if __name__ == "__main__":
    main()
