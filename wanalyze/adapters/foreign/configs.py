"""Fields of a config, or of a file's metadata, that the scale of an update depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wanalyze.errors import AdapterError

Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class Fields(BaseModel):
    """Fields that are read strictly; others are not looked at."""

    model_config = ConfigDict(extra="ignore", frozen=True)


Model = TypeVar("Model", bound=Fields)


def fields_of(values: Mapping[str, object], model: type[Model], *, where: str) -> Model:
    """`values` as `model`; AdapterError with field, value and rule where they are not."""
    given = {key: value for key, value in values.items() if value is not None}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:3])
        value = "" if first["type"] == "missing" else f" is {str(first['input'])[:60]!r}"
        raise AdapterError(
            f"{where}: {name[:200]}{value}: {first['msg'][:1].lower()}{first['msg'][1:]}; "
            "the scale of the update depends on it"
        ) from None
