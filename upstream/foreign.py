"""Files that `torch.save` wrote, told apart by what is in them, never by their names."""

from pathlib import Path

from wavbench.upstream.checkpoints import Checkpoint
from wavbench.upstream.errors import UserError
from wavbench.upstream.fairseq import is_fairseq, read_fairseq
from wavbench.upstream.pickles import is_table_of_tensors, read_pickle
from wavbench.upstream.torchaudio_weights import is_torchaudio, read_torchaudio


def read_foreign(path: Path) -> Checkpoint:
    """The encoder in a `.pt`, `.pth` or `.bin` file of fairseq, WavLM or torchaudio.

    Raises:
        UserError: there is no such file, it is damaged or holds code, or nothing here knows its layout.
    """
    if not path.is_file():
        raise UserError("there is no such checkpoint", where=path, remedy="check the path")
    content = read_pickle(path)
    if is_fairseq(content):
        return read_fairseq(content, path)
    if is_table_of_tensors(content) and is_torchaudio(content):
        return read_torchaudio(content, path)
    names = [str(name) for name in content][:5] if isinstance(content, dict) else []
    raise UserError(
        "nothing here knows the layout of this file",
        where=path,
        why=f"it holds {', '.join(names)}, ..." if names else f"it holds no dictionary but {type(content).__name__}",
        remedy="a fairseq checkpoint (model, and cfg or args), the state_dict() of torchaudio's wav2vec2, hubert or "
        "wavlm; of a Hugging Face checkpoint name the folder, which holds config.json too",
    )
