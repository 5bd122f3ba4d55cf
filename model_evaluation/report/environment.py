"""Jinja as the pages use it: everything escaped, an unknown name an error, the filters and plots at hand."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model_evaluation.report import plots
from model_evaluation.report.filters import FILTERS

TEMPLATES = Path(__file__).parent / "templates"


class MissingValue(StrictUndefined):
    @property
    def _undefined_message(self) -> str:
        return f"没有 {self._undefined_name}"


def page_environment(**names: Any) -> Environment:
    """The templates of `templates/`, in which `names` are known."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=MissingValue,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(plots=plots, **names)
    return environment
