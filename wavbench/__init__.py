"""wavbench: speech in, layer-wise features to HDF5 once, any number of heads on top.

import wavbench as wb
up = wb.load("wav2vec2_tiny", weights="random", seed=0)
features = up.extract("speech.wav")          # states: (batch, layers, frames, dim)
store = wb.open_store("features/...")        # store["utterance-id"][6] -> (frames, dim)
"""

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

__version__ = "0.1.0"
__all__ = ["Features", "UserError", "__version__", "load", "open_store"]

_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "upstream").is_dir():
    __path__.append(str(_ROOT))  # uninstalled checkout: wavbench.upstream is ../upstream


class _TorchaudioExtension:
    """Import hook for `torchaudio._extension`: a CUDA-linked wheel beside a CPU torch still imports.

    The wheel of torchaudio is linked against CUDA, so on a CPU torch loading its compiled part raises
    OSError, and `import torchaudio`, `import speechbrain` and transformers' audio models die with it. Nothing
    used here needs that part (only forced_align and rnnt_loss do), so then it is marked as absent instead.
    A hook rather than an import here, because torchaudio takes seconds that most commands never need.
    """

    name = "torchaudio._extension"

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        self._real, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        try:
            self._real.exec_module(module)
        except OSError:

            def fail_if_no_align(function):
                def unavailable(*args, **kwargs):
                    raise RuntimeError(
                        f"torchaudio.{function.__name__} needs torchaudio's compiled part, which does not load "
                        "beside this build of torch: install the torchaudio build that matches it"
                    )

                return unavailable

            module._IS_TORCHAUDIO_EXT_AVAILABLE = module._IS_ALIGN_AVAILABLE = False
            module.fail_if_no_align = fail_if_no_align
            module._check_cuda_version = lambda: None


if not any(isinstance(finder, _TorchaudioExtension) for finder in sys.meta_path):
    sys.meta_path.insert(0, _TorchaudioExtension())

_LAZY = {
    "Features": "wavbench.upstream.features",
    "UserError": "wavbench.upstream.errors",
    "load": "wavbench.benchmark.loading",
    "open_store": "wavbench.upstream.store",
}


def __getattr__(name: str):
    """Import the public names when first asked for, so that `wavbench --help` does not wait for torch."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'wavbench' has no attribute {name!r}")
