"""Learn, train and use chest X-ray image-text models.

The names of `__init__.pyi` can be imported from here; each is loaded when it is first
used, so that importing the package alone costs nothing.
"""

__version__ = "0.2.0"

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
