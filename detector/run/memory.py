"""Memory of the device: how much was used, and what is done where it is too little."""

import dataclasses
import gc
import sys

import torch

from detector.config import RunConfig
from detector.errors import ConfigError, DetectorError
from detector.train.learner import Learner


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        gc.collect()  # networks that are gone, and hang together in circles
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int | None:
    """Bytes: of a GPU what torch took since the reset, else the most that this process ever had; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def available(device: torch.device) -> int | None:
    """Bytes of a GPU that are free or ours; None of a CPU, whose memory is shared with everybody."""
    if device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def reason(error: torch.OutOfMemoryError) -> str:
    return f"the device has not enough memory ({str(error).splitlines()[0]})"


def take_more_parts(error: torch.OutOfMemoryError, learner: Learner, config: RunConfig) -> str:
    """Let the learner take its batches in twice as many parts, and say what that means.

    Raises:
        DetectorError: the settings forbid it, or a part would hold no image.
    """
    parts = 2 * learner.micro_batches
    try:
        dataclasses.replace(config, memory=dataclasses.replace(config.memory, micro_batches=parts))
    except ConfigError as refused:
        cure = f"set a smaller data.batch_size or data.image_size: {refused}"
        raise DetectorError(f"{reason(error)}; {cure}") from error
    if parts > config.data.batch_size:
        raise DetectorError(f"{reason(error)}; set a smaller data.image_size, or memory.checkpoint=all") from error
    learner.micro_batches = parts
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    norms = "; the norms see the parts one by one" if config.model.norm_mixes_images else ""
    return f"the same batches in {parts} parts (memory.micro_batches) from now on{norms}"
