"""Stand-ins for three packages of GPU code, so that SGLang can be imported without a GPU.

SGLang's CPU path (``attention_backend = "torch_native"``) calls none of them, but imports them:

- ``triton``: some 400 of its modules decorate kernels with ``triton.jit`` where they are imported.
  The real package comes with a CUDA build of torch, and compiles only for a GPU.
- ``torchvision``: image processors of multimodal models import its transforms. The wheels of PyPI
  want a CUDA build of torch.
- ``sgl_kernel``: SGLang's own compiled kernels; its wheels are for CUDA and need its driver.

``scripts/sglang-cpu`` puts this module into its virtual environment with a ``.pth`` file that
imports it where ``SGLANG_USE_CPU_ENGINE=1``, SGLang's own switch: every process that SGLang spawns
must have it. With a GPU, or a torch built for one, the import fails and nothing is replaced. A
package that is installed is never replaced.
"""

import glob
import importlib.abc
import importlib.machinery
import importlib.util
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["REPLACED", "install"]

REPLACED = ("triton", "torchvision", "sgl_kernel")
GPU_DEVICES = ("/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/kfd")


class _Names(type):
    """The class of classes whose attributes are their own names, as those of an enumeration."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Placeholder(metaclass=_Names):
    """Stands for a class: it can be a base, it takes any arguments."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass


class _Module(ModuleType):
    """Has every attribute; called, it is a decorator that changes nothing; empty and false."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__file__ = __file__
        self.__spec__ = importlib.machinery.ModuleSpec(name, _LOADER, is_package=True)
        self.__version__ = "3.0.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        full_name = f"{self.__name__}.{name}"
        found: Any = sys.modules.get(full_name)
        if found is None and name[:1].isupper():
            found = _Names(name, (_Placeholder,), {"__module__": self.__name__})
        elif found is None:
            found = sys.modules[full_name] = _Module(full_name)
        setattr(self, name, found)
        return found

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if len(arguments) == 1 and callable(arguments[0]) and not options:
            return arguments[0]
        return lambda function: function

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __contains__(self, item: object) -> bool:
        return False


class _Loader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return sys.modules.get(spec.name) or _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Finder(importlib.abc.MetaPathFinder):
    """Finds every module of the packages that are replaced."""

    def __init__(self, packages: frozenset[str]) -> None:
        self._packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in self._packages:
            return None
        return importlib.machinery.ModuleSpec(fullname, _LOADER, is_package=True)


_LOADER = _Loader()


def refusal() -> str | None:
    """Why nothing may be replaced on this machine; None if it may."""
    for pattern in GPU_DEVICES:
        for device in glob.glob(pattern):  # noqa: PTH207  (absolute patterns)
            return f"this machine has a GPU ({device})"
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    version = runpy.run_path(str(Path(torch.origin).with_name("version.py")))
    for kind in ("cuda", "hip"):
        if version.get(kind):
            return f"torch {version['__version__']} is built for {kind} {version[kind]}"
    return None


def install() -> None:
    """Replace those of the packages that are not installed.

    Raises:
        ImportError: there is a GPU, or torch is built for one.
    """
    reason = refusal()
    if reason is not None:
        raise ImportError(
            f"SGLANG_USE_CPU_ENGINE=1 asks for stand-ins of {', '.join(REPLACED)}, but {reason}: "
            "install SGLang as it is, and unset the variable"
        )
    packages = frozenset(name for name in REPLACED if importlib.util.find_spec(name) is None)
    sys.meta_path.append(_Finder(packages))


if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
    install()
