"""C++ where Python per word or per weight is too slow: compiled at first use, called through ctypes."""

from luban.native.build import load, pointer

__all__ = ["load", "pointer"]
