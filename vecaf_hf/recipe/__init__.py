"""A run by its options alone: what a recipe or a command takes, and the trainer that is built from it."""

from vecaf_hf.recipe.building import build_trainer, captions_of, load_splits
from vecaf_hf.recipe.options import RecipeArguments, parse

__all__ = ["RecipeArguments", "build_trainer", "captions_of", "load_splits", "parse"]
