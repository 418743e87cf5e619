"""How the parameters of a notebook are read and checked."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from dsrkit.params.kinds import Count


class ParameterError(ValueError):
    """A parameter with a wrong name, type or value; says which, and names the nearest that exists."""


class Settings(BaseModel):
    """How the parameters of a notebook are read and checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes(cls, value: Any, info: Any) -> Any:
        # YAML reads `yes` as True, and pydantic would take True for 1
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"got {value}; a bare yes/no/true/false is no number or text")
        return value

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Self:
        """Settings from names and values.

        Raises ParameterError that lists every wrong name (with the nearest valid one), missing name and wrong value.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            lines = [cls._explain(one) for one in error.errors()]
            raise ParameterError(f"{cls.__name__}: " + "; ".join(lines)) from None

    @classmethod
    def _explain(cls, error: Any) -> str:
        if not error["loc"]:  # of several parameters together
            return error["msg"].removeprefix("Value error, ")
        name = str(error["loc"][0])
        if error["type"] == "extra_forbidden":
            nearest = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.5)
            return f"no parameter {name!r}" + (
                f" (did you mean {nearest[0]!r}?)" if nearest else f"; there are {', '.join(cls.model_fields)}"
            )
        if error["type"] == "missing":
            return f"parameter {name!r} is missing"
        return f"{name}: {error['msg']}, got {error['input']!r} ({type(error['input']).__name__})"

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Settings from a notebook's ``globals()``: the names assigned in its parameter cells, and no other.

        Raises ParameterError.
        """
        names = parameter_names(namespace.get("In", ()))
        return cls.check({name: namespace[name] for name in names if name in namespace})

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Settings from a YAML file of flat keys. Raises FileNotFoundError or ParameterError."""
        values = yaml.safe_load(Path(path).read_text())
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            raise ParameterError(f"{path}: expected lines such as 'epochs: 20', got a {type(values).__name__}. Write flat keys.")
        return cls.check(values)


class Stage(Settings):
    """What every stage takes."""

    run: str
    seed: Count
    device: str


def parameter_names(cells: Sequence[str]) -> list[str]:
    """Names assigned in the latest unbroken block of cells that do nothing but assign (executed sources, oldest first).

    Under papermill that block is the ``parameters`` cell and the cell that it injects. The cell that asks has an import,
    so it is no such cell itself; reading the cells, not the namespace, keeps "Run all" twice in one kernel working.
    """
    names: dict[str, None] = {}
    for cell in reversed(cells):
        assigned = list(_assigned(cell))
        if names and not assigned:
            break
        names.update(dict.fromkeys(assigned))
    return list(names)


def _assigned(cell: str) -> Iterator[str]:
    try:
        statements = ast.parse(cell).body
    except SyntaxError:  # a cell of IPython magics is no parameter cell
        return
    names: list[str] = []
    for statement in statements:
        if not isinstance(statement, ast.Assign | ast.AnnAssign):
            return
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    yield from names
