"""Docstrings of the three styles, recognised and read."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest

from runstream.agent.docstring import generate_func_documentation


def google(city: str, *rest: str, **more: str) -> None:
    """Get the weather.

    Args:
        city: The city.
        *rest: Other cities.
        **more: Settings.

    Returns:
        Nothing.
    """


def tight_google(city: str) -> None:
    """Get the weather.
    Args:
        city: The city.
    """


def google_after_a_section(city: str) -> None:
    """Get the weather.

    Note:
        It is cached.
    Args:
        city: The city.
    """


def google_without_text(city: str) -> None:
    """
    Args:
        city: The city.
    """


def numpy(city: str, *rest: str, **more: str) -> None:
    """Get the weather.

    Parameters
    ----------
    city : str
        The city.
    *rest : str
        Other cities.
    **more : str
        Settings.

    Returns
    -------
    None
        Nothing.
    """


def sphinx(city: str, *rest: str, **more: str) -> None:
    """Get the weather.

    :param city: The city.
    :param rest: Other cities.
    :param more: Settings.
    :return: Nothing.
    """


@pytest.mark.parametrize("function", [google, numpy, sphinx])
@pytest.mark.parametrize("by_name", [True, False])
def test_each_style_is_recognised_and_read(function: Any, by_name: bool) -> None:
    """The description is the text before the sections; parameters lose their stars."""
    documentation = generate_func_documentation(function, function.__name__ if by_name else None)
    assert documentation.name == function.__name__
    assert documentation.description == "Get the weather."
    assert documentation.param_descriptions == {"city": "The city.", "rest": "Other cities.", "more": "Settings."}


@pytest.mark.parametrize("function", [tight_google, google_after_a_section])
def test_a_section_needs_no_blank_line_above_it(function: Any) -> None:
    """A section of parameters right below other text is one all the same."""
    documentation = generate_func_documentation(function)
    assert documentation.description == "Get the weather."
    assert documentation.param_descriptions == {"city": "The city."}


def test_a_docstring_may_have_sections_only() -> None:
    """Without text there is no description."""
    documentation = generate_func_documentation(google_without_text)
    assert documentation.description is None
    assert documentation.param_descriptions == {"city": "The city."}


def test_no_docstring_says_nothing() -> None:
    """Without a docstring only the name is known."""

    def bare() -> None: ...

    documentation = generate_func_documentation(bare)
    assert (documentation.name, documentation.description, documentation.param_descriptions) == ("bare", None, None)


def test_methods_and_classes_are_documented_too() -> None:
    """A bound method and a class have docstrings like functions."""

    class Holder:
        """Holds.

        Args:
            a: The a.
        """

        def method(self, a: int) -> None:
            """Do it: now."""

    assert generate_func_documentation(Holder().method).description == "Do it: now."
    assert generate_func_documentation(Holder).param_descriptions == {"a": "The a."}


def test_faulty_docstrings_are_not_complained_about(caplog: pytest.LogCaptureFixture) -> None:
    """griffe's warnings (unknown parameters, missing types) are not for the users of tools."""

    def odd(a: int) -> None:
        """Odd.

        Args:
            b: Not there.
            c
        """

    with caplog.at_level(logging.DEBUG):
        generate_func_documentation(odd)
    assert caplog.records == []


def test_plain_text_needs_no_griffe() -> None:
    """A docstring without sections is read without importing the parser."""
    script = (
        "import sys\n"
        "from runstream.agent.docstring import generate_func_documentation as read\n"
        "def f():\n    'Only  text,\\n\\n    in two parts.'\n"
        "assert read(f).description == 'Only  text,\\n\\nin two parts.'\n"
        "assert 'griffe' not in sys.modules and 'pydantic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
