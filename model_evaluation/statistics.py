"""Moved to `model_evaluation.uncertainty`; this name goes as soon as nothing imports it."""

from model_evaluation.uncertainty import *  # noqa: F403
