"""cxr: does training a chest X-ray classifier on GAN-made images help, and how sure are we?

Importing the package costs nothing: no torch, no lightning. It only arranges that
torchvision can be imported later, because everything that uses it is imported lazily.
"""

from cxr import _torchvision

__version__ = "0.1.0"

_torchvision.install()
