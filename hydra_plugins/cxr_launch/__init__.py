"""cxr's launchers, where Hydra looks for them: it instantiates plugins only below `hydra_plugins.`.

One module for each launcher, thin: the code lies in `cxr.launch`. Hydra imports all of them at every start, so they
only stand for classes that are imported when they are used (`cxr.launch.later`). There is no
`hydra_plugins/__init__.py`: it is a namespace that other plugins share.
"""
