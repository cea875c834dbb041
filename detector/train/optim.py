"""Optimizers and what each parameter gets from them."""

from typing import assert_never

import torch
from torch import nn

from detector.config import OptimConfig
from detector.model.detector import DetectionModel


def parameter_groups(model: DetectionModel, config: OptimConfig) -> list[dict[str, object]]:
    """Four groups: backbone or not, decayed or not. Norms and biases are never decayed.

    Each group carries `base_lr`, from which the schedule computes its rate.
    """
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in backbone, parameter.ndim > 1), []).append(parameter)
    result: list[dict[str, object]] = []
    for (in_backbone, is_weight), parameters in groups.items():
        base_lr = config.lr * (config.backbone_lr_factor if in_backbone else 1.0)
        result.append(
            {
                "params": parameters,
                "lr": base_lr,
                "base_lr": base_lr,
                "weight_decay": config.weight_decay if is_weight else 0.0,
            }
        )
    return result


def build(model: DetectionModel, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum, in the fused form where the device has one."""
    groups = parameter_groups(model, config)
    match config.name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=config.lr, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
        case _:
            assert_never(config.name)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
