"""Which optimizer trains which parameter: groups with settings of their own, and the check that none is forgotten."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from torch import nn
from torch.optim import Optimizer

_NAMED: Final = 5  # parameters that a message names


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimizer, group by group."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def groups(
    parameters: Iterable[tuple[str, nn.Parameter]], options: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Parameters in groups with settings of their own, as optimizers of PyTorch take them.

    Example: `AdamW(groups(self.named_parameters(), {"encoder.": {"lr": 1e-5}, "": {}}), lr=1e-3)`.

    Args:
        parameters: Names and parameters, such as `named_parameters()`.
        options: Beginning of names -> "lr", "betas", "weight_decay" and so on; of several, the longest counts. What is
            not named there is the optimizer's own.

    Raises:
        ValueError: A parameter begins with none of them, or one of them is the beginning of none.
    """
    found: dict[str, dict[str, Any]] = {prefix: {"params": [], **chosen} for prefix, chosen in options.items()}
    for name, parameter in parameters:
        fits = [prefix for prefix in found if name.startswith(prefix)]
        if not fits:
            raise ValueError(
                f"parameter {name} belongs to no group; names begin with {list(options)}. Add a group '' for the rest"
            )
        found[max(fits, key=len)]["params"].append(parameter)
    empty = [prefix for prefix, group in found.items() if not group["params"]]
    if empty:
        raise ValueError(f"no parameter is left for the group {empty[0]!r}: the beginning of none, or of others' only")
    return list(found.values())


def check_ownership(model: str, parameters: Mapping[str, nn.Parameter], optimizers: Mapping[str, Optimizer]) -> None:
    """Every trainable parameter must be in one optimizer, and every parameter of an optimizer in the model.

    Args:
        model: Its name, for the message.
        parameters: Of the model, by name.
        optimizers: By name.

    Raises:
        ValueError: A parameter would not be trained, or trained twice, or not be saved.
    """
    owners: dict[int, list[str]] = {}
    for name, optimizer in optimizers.items():
        for parameter in parameters_of(optimizer):
            owners.setdefault(id(parameter), []).append(name)
    alone = [key for key, parameter in parameters.items() if parameter.requires_grad and id(parameter) not in owners]
    twice = {key: owners[id(p)] for key, p in parameters.items() if len(owners.get(id(p), ())) > 1}
    if alone:
        raise ValueError(
            f"{len(alone)} trainable parameters of {model} are in no optimizer and would never be trained: "
            f"{_listed(alone)}. Give them to one of {', '.join(optimizers) or 'build_optimizers'}, or freeze them with "
            "requires_grad_(False)"
        )
    if twice:
        both = " and ".join(next(iter(twice.values())))
        raise ValueError(f"{len(twice)} parameters of {model} are in two optimizers, {both}: {_listed(list(twice))}")
    known = {id(parameter) for parameter in parameters.values()}
    for name, optimizer in optimizers.items():
        strange = [tuple(p.shape) for p in parameters_of(optimizer) if id(p) not in known]
        if strange:
            raise ValueError(
                f"optimizer {name!r} of {model} has {len(strange)} parameters that the model does not have, such as "
                f"one of shape {strange[0]}: they would not be saved. Make their network an attribute of the model"
            )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
