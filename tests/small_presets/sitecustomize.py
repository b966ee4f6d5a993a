"""On PYTHONPATH this makes the preset "tiny" of every command a hundred times smaller, so that tests can train it."""

from wavbench.upstream.models import wav2vec2

wav2vec2.presets["tiny"] = wav2vec2.Config(  # before the family hubert takes it from there
    conv_channels=(16,) * 7, dim=24, num_layers=2, num_heads=2, inner_dim=48, position_kernel=16, position_groups=4,
)  # fmt: skip
