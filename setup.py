"""The compiled part, which setuptools wants to be told of here; everything else is in pyproject.toml.

It is left out on Windows, on PyPy, on a CPython without its global lock, and wherever compiling fails: Python does the
same.
"""

import os
import platform
import sysconfig

from setuptools import Extension, setup

speedups = Extension("usagekit._speedups", ["src/usagekit/_speedups.c"], py_limited_api=True, optional=True)
has_lock = platform.python_implementation() == "CPython" and not sysconfig.get_config_var("Py_GIL_DISABLED")

if os.name == "posix" and has_lock:
    # One wheel for every CPython from 3.11 on.
    setup(ext_modules=[speedups], options={"bdist_wheel": {"py_limited_api": "cp311"}})
else:
    setup()
