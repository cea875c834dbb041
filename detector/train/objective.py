"""From a batch to the loss: prediction, assignment, loss terms and their weighted sum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from detector.config import RunConfig
from detector.loss import criterion
from detector.model.detector import DetectionModel
from detector.targets import assign
from detector.types import Batch, Losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What training minimises."""

    config: RunConfig
    dtype: torch.dtype
    """Type the network runs in; the losses are always computed in float32."""

    def __call__(self, model: DetectionModel, batch: Batch) -> tuple[Tensor, Losses]:
        """The scalar to differentiate, and the unweighted terms. `batch` is on the model's device."""
        images = batch.images
        priors = model.priors((images.shape[2], images.shape[3]))
        low_precision = self.dtype != torch.float32
        with torch.autocast(images.device.type, self.dtype if low_precision else None, enabled=low_precision):
            prediction = model(images)
        assignment = assign.assign(batch.targets, priors, self.config.assign)
        losses = criterion.losses(
            prediction,
            priors,
            batch.targets,
            assignment,
            config=self.config.loss,
            delta_std=self.config.model.delta_std,
        )
        return criterion.weighted_total(losses, self.config.loss), losses
