"""The processes and devices that a training runs on, by Lightning's Fabric."""

import logging
import os
from datetime import timedelta

import torch

from wavbench.upstream.errors import UserError

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def make_fabric(device: str, devices: int, nodes: int, precision: str, *, unused: bool):
    """Lightning's Fabric for one process or several.

    Args:
        device: "cpu" or "cuda"; "cuda:1" for one process on this GPU.
        devices: processes per node; under torchrun as many as it starts, under SLURM as many tasks as it has.
        nodes: machines.
        precision: "fp32" or "bf16".
        unused: whether a step may leave parameters out (LayerDrop does).

    Raises:
        UserError: several processes on one GPU.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    for name in ("lightning.fabric", "lightning.pytorch"):  # what they tell is no news to the person who waits
        logging.getLogger(name).setLevel(logging.WARNING)
    if torch.distributed.is_torchelastic_launched():
        devices, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
    place = torch.device(device)
    if place.type == "cuda" and place.index is not None and devices * nodes > 1:
        raise UserError(
            f"device={device} is one GPU, and {devices * nodes} processes want one each",
            remedy="device=cuda; CUDA_VISIBLE_DEVICES chooses among GPUs",
        )
    strategy = "auto"
    if devices * nodes > 1:
        strategy = DDPStrategy(find_unused_parameters=unused, start_method="popen", timeout=timedelta(hours=12))
    chosen = [place.index] if place.type == "cuda" and place.index is not None else devices
    return Fabric(
        accelerator=place.type, devices=chosen, num_nodes=nodes, precision=PRECISIONS[precision], strategy=strategy
    )
