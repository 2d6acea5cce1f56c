"""`install_as_agents()`: the import name `agents` gives our objects, in the manner of `pymysql.install_as_MySQLdb`.

Owns the stand-in modules, which hold nothing of their own: each name is looked up when it is first used, in the modules
that the table `MODULES` names, and is the very object that this package offers. What is made for the alias alone (no-op
tracing, thin forms of inner helpers) lives in the sibling files; docs/compatibility.md lists it.

Invariants: a name or a module that is not there is an ImportError that says so; `hasattr` still answers False.
"""

from __future__ import annotations

import dis
import importlib
import importlib.abc
import importlib.machinery
import logging
import sys
import types
from collections.abc import Sequence
from typing import Any

from runstream.compat.modules import ALIAS, LOGGER, MODULES, OURS
from runstream.errors import UserError

__all__ = ["install_as_agents"]

_ORIGIN = "runstream.compat"
_IMPORT_FROM = dis.opmap["IMPORT_FROM"]


def install_as_agents() -> None:
    """Make `import agents`, `from agents.items import …` and the like give this package's objects.

    Call it before anything imports `agents`: raises UserError where the OpenAI Agents SDK itself is imported already.
    Calling it again does nothing. Whether the SDK is installed makes no difference.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    imported = sys.modules.get(ALIAS)
    if imported is not None:
        raise UserError(
            f"'agents' is imported already, from {getattr(imported, '__file__', None) or 'an unknown place'}: call "
            "runstream.install_as_agents() before the first `import agents`"
        )
    sys.meta_path.insert(0, _Finder())
    # Programs set the level and the handlers of the SDK's logger: our records pass through it on their way up.
    logging.getLogger("runstream").parent = logging.getLogger(LOGGER)


def _refusal(name: str) -> str:
    return (
        f"{name!r} is not offered: 'agents' is runstream here (install_as_agents), which stands in for the OpenAI "
        "Agents SDK. docs/compatibility.md says what there is, what there is not, and what to use instead"
    )


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the stand-in modules, and nothing else below their root."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in MODULES:
            # All of them packages, so that what is asked for below one comes here, too.
            return importlib.machinery.ModuleSpec(fullname, self, origin=_ORIGIN, is_package=True)
        if fullname.startswith(f"{ALIAS}."):
            raise ModuleNotFoundError(_refusal(fullname), name=fullname)
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        names = _StandIn(module)
        module.__getattr__ = names.find  # type: ignore[method-assign]
        module.__dir__ = names.list  # type: ignore[method-assign]


class _StandIn:
    """The names of one stand-in module."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._name = module.__name__

    def find(self, attribute: str) -> Any:
        """The module's `__getattr__`. Raises AttributeError, or ImportError where a `from … import` asks: Python
        would put a message of its own in the place of an AttributeError's."""
        if attribute == "__all__":
            return [name for name in self._offered() if name not in OURS and not name.startswith("_")]
        if not attribute.startswith("__") or attribute == "__version__":
            home = self._offered().get(attribute) or _names_of_root().get(attribute)
            if home is not None:
                value = getattr(importlib.import_module(home), attribute)
                setattr(self._module, attribute, value)
                return value
            if f"{self._name}.{attribute}" in MODULES:
                return importlib.import_module(f"{self._name}.{attribute}")
            asking = sys._getframe(1)
            if asking.f_code.co_code[asking.f_lasti] == _IMPORT_FROM:
                raise ImportError(_refusal(f"{self._name}.{attribute}"), name=self._name)
        raise AttributeError(_refusal(f"{self._name}.{attribute}"), name=attribute, obj=self._module)

    def list(self) -> list[str]:
        """The module's `__dir__`."""
        return sorted({*vars(self._module), *self._offered()})

    def _offered(self) -> dict[str, str]:
        """Where each name lives."""
        return _names_of(MODULES[self._name])


def _names_of(sources: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for source in sources:
        home, _, names = source.partition(":")
        for name in names.split() if names else importlib.import_module(home).__all__:
            found.setdefault(name, home)
    return found


def _names_of_root() -> dict[str, str]:
    """The SDK's modules hand on much of what they import themselves, and programs have come to rely on it."""
    return _names_of(MODULES[ALIAS])
