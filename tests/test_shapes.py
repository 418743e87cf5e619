"""The shapes that stand in signatures are so: beartype checks them while other tests run (`SHAPES_CHECKED_IN` in conftest.py)."""

import importlib
import inspect
import pkgutil

import jaxtyping
import pytest
import torch
from conftest import REPOSITORY, SHAPES_CHECKED_IN

from dsrkit.losses import identity_loss


def test_a_wrong_shape_is_caught():
    one, other = torch.ones(2, 4), torch.ones(3, 4)
    with pytest.raises(jaxtyping.TypeCheckError, match="identity_loss"):
        identity_loss(one, other)


@pytest.mark.parametrize("name", ["data", "models", "losses", "metrics", "training", "recognition"])
def test_every_function_is_checked(name):
    package = importlib.import_module(f"dsrkit.{name}")
    found = pkgutil.iter_modules(getattr(package, "__path__", []), f"dsrkit.{name}.")
    modules = [package, *(importlib.import_module(one.name) for one in found if not one.name.endswith("__main__"))]
    functions = [
        function
        for module in modules
        for _, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
    ]
    assert functions and [function for function in functions if not hasattr(function, "__wrapped__")] == []


def test_the_files_in_which_shapes_are_checked_are_there():
    assert [name for name in SHAPES_CHECKED_IN if not (REPOSITORY / "tests" / f"test_{name}.py").is_file()] == []
