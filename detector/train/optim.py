"""Optimizers and what each parameter gets from them."""

from typing import assert_never

import torch
from torch import Tensor, nn

from detector.config import OptimConfig, RunConfig
from detector.train.objective import Objective


def parameter_groups(objective: Objective, config: RunConfig) -> list[dict[str, object]]:
    """Groups by part of the network and by whether they are decayed: norms and biases never are.

    Each group carries `base_lr`, from which the schedule computes its rate.
    """
    optim = config.optim
    result: list[dict[str, object]] = []
    for name, part in _parts(objective).items():
        lr = optim.lr * (optim.backbone_lr_factor if name == "backbone" else 1.0)
        for is_weight in (True, False):
            # Parts that do not learn in the first stage may in a later one.
            parameters = [p for p in part.parameters() if (p.ndim > 1) == is_weight and not _is_frozen(objective, p)]
            if parameters:
                decay = _decay(name, objective, optim) if is_weight else 0.0
                result.append({"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay})
    learned = list(objective.balancer.parameters())
    if learned:
        lr = config.balance.lr
        result.append({"params": learned, "lr": lr, "base_lr": lr, "weight_decay": 0.0})
    return result


def build(objective: Objective, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum, in the fused form."""
    groups = parameter_groups(objective, config)
    match config.optim.name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.optim.lr, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=config.optim.lr, momentum=config.optim.momentum, fused=True)
        case _:
            assert_never(config.optim.name)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def clip(objective: Objective, config: OptimConfig) -> Tensor:
    """Limit the gradient of each head by itself, then that of the whole network; without waiting for the device.

    Returns the norm of the whole before the last limit, which is finite only where every gradient is.
    """
    if config.head_clip_norm:
        for head in objective.model.heads.values():
            torch.nn.utils.clip_grad_norm_(head.parameters(), config.head_clip_norm, foreach=True)
    gradients = [p.grad for p in objective.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if config.clip_norm:
        torch.nn.utils.clip_grads_with_norm_(objective.model.parameters(), config.clip_norm, norm, foreach=True)
    return norm


def step_if(optimizer: torch.optim.Optimizer, condition: Tensor) -> None:
    """A step of a fused optimizer where `condition` holds, else nothing; the host does not need to know which."""
    if isinstance(optimizer, torch.optim.SGD):
        _begin_momentum(optimizer)
    # The door through which gradient scalers tell a fused optimizer to leave a step out.
    optimizer.found_inf = (~condition).float()  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.grad_scale = None  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()


def _begin_momentum(optimizer: torch.optim.SGD) -> None:
    """From zero: torch's own beginning gives the same bits, but memory as it was found where the step is left out."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if parameter.grad is not None and not optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _parts(objective: Objective) -> dict[str, nn.Module]:
    model = objective.model
    parts: dict[str, nn.Module] = {"backbone": model.backbone, "neck": model.neck}
    parts |= {head.name: model.heads.head(head) for head in model.heads.configs}
    return parts if objective.adapters is None else parts | {"adapters": objective.adapters}


def _decay(name: str, objective: Objective, config: OptimConfig) -> float:
    of_parts = config.part_weight_decay
    is_head = name in objective.model.heads
    return of_parts.get(name, of_parts.get("heads", config.weight_decay) if is_head else config.weight_decay)


def _is_frozen(objective: Objective, parameter: nn.Parameter) -> bool:
    return any(parameter is frozen for part in objective.model.backbone.frozen for frozen in part.parameters())
