"""The processes and devices that a training runs on, by Lightning's Fabric."""

import logging
import os
import warnings
from datetime import timedelta

import torch

from wavbench.upstream.errors import UserError

PATIENCE = timedelta(days=7)  # of processes that wait for the first one, which decodes or makes units
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
        # Without a look for unused ones DDP orders gradients anew after its first step, a resumed run once more, and
        # sums of three processes and more then end in other bits. On GPUs atomics have that effect anyway.
        find = unused or place.type == "cpu"
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified", UserWarning)
        strategy = DDPStrategy(find_unused_parameters=find, start_method="popen", timeout=PATIENCE)
    chosen = [place.index] if place.type == "cuda" and place.index is not None else devices
    how = {"precision": PRECISIONS[precision]}
    if precision == "bf16":
        how = {"plugins": [_whole_inputs()(PRECISIONS[precision], place.type)]}
    return Fabric(accelerator=place.type, devices=chosen, num_nodes=nodes, strategy=strategy, **how)


def _whole_inputs() -> type:
    """Mixed precision that leaves what a module is given as it is: a normalisation wants all bits of samples."""
    from lightning.fabric.plugins.precision import MixedPrecision

    class WholeInputs(MixedPrecision):
        def convert_input(self, data):
            return data

    return WholeInputs
