"""Look at this machine and installation: what works, what an extra would add."""

import importlib.util
import os
import platform
import shutil
import tempfile
from pathlib import Path

from wavbench.benchmark.record import PACKAGES, versions

EXTRAS = {
    "synthetic": ("espeakng_loader", "the built-in corpus (`make demo`)"),
    "parquet": ("pyarrow", "Parquet manifests"),
    "lm": ("kenlm", "n-gram models of more than 5 million n-grams"),
    "launchers": ("ray", "workers of a sweep on SLURM (submitit) and Ray"),
    "trackers": ("wandb", "Weights & Biases and MLflow beside TensorBoard"),
    "dev": ("pytest", "the tests"),
}


def examine(stores: Path) -> tuple[list[str], bool]:
    """Lines for a person, and whether everything that is needed works."""
    import torch

    lines, well = [f"python {platform.python_version()} on {platform.platform()}"], True
    found = versions()
    lines += [f"{name} {found[name]}" for name in PACKAGES]
    lines.append(f"cores: {os.cpu_count()}, torch threads: {torch.get_num_threads()}")
    if torch.cuda.is_available():
        lines += [f"device: cuda:{n} {torch.cuda.get_device_name(n)}" for n in range(torch.cuda.device_count())]
    else:
        lines.append("device: cpu (this torch sees no CUDA device)")
    lines.append(f"matrix products on the CPU: {_products()}")
    lines.append(_torchaudio())
    ok, line = _hdf5(stores)
    lines.append(line)
    well &= ok
    for extra, (module, use) in EXTRAS.items():
        state = f"installed ({use})" if _installed(module) else f"missing; `pip install wavbench[{extra}]` gives {use}"
        lines.append(f"extra [{extra}]: {state}")
    lines.append("all well" if well else "something needed does not work; see above")
    return lines, well


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def _products() -> str:
    from wavbench.upstream.layers.linear import PRODUCTS, engine

    return f"{engine()} (by measurement, or as {PRODUCTS}=onednn or torch says)"


def _torchaudio() -> str:
    import torchaudio

    if torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE:
        return "torchaudio: whole"
    return "torchaudio: without its compiled part (built for CUDA, beside a CPU torch); nothing here needs that part"


def _hdf5(stores: Path) -> tuple[bool, str]:
    """Write, read back and delete an HDF5 file where stores go; free disk."""
    import h5py
    import numpy as np

    place = stores
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".wavbench-doctor-") as folder:
            with h5py.File(Path(folder) / "test.h5", "w") as file:
                file.create_dataset("states", data=np.arange(6.0).reshape(2, 3), chunks=(1, 3), fletcher32=True)
            with h5py.File(Path(folder) / "test.h5", "r") as file:
                if file["states"][1, 2] != 5.0:
                    raise OSError("what was written reads back as something else")
    except (OSError, ValueError) as error:
        return False, f"hdf5: cannot write in {place} ({error}); choose another stores= folder"
    return True, f"hdf5: written and read back in {place}; {shutil.disk_usage(place).free / 1e9:.1f} GB free"
