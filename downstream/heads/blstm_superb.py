"""SUPERB's head for speech recognition: a projection to 1024 and two bidirectional LSTMs of 1024, frame by frame.

12.6 GFLOP for a second of audio, forward and backward: for GPUs.
"""

from functools import partial

from wavbench.downstream.heads.blstm import Stack

WIDTH = 1_024

# Source: Yang et al. 2021, SUPERB, ASR; s3prl's RNNs with its asr/config.yaml
build = partial(Stack, stride=1, projection=WIDTH, hidden=WIDTH)
