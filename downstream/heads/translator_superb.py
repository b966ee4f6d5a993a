"""SUPERB's shape for speech translation: three blocks that read and three that write, 512 wide."""

from functools import partial

from wavbench.downstream.heads.translator import Shape, Translator

SHAPE = Shape(width=512, hidden=2_048, attention_heads=8, encoder_blocks=3, decoder_blocks=3, dropout=0.1)

# Source: Tsai et al. 2022, SUPERB-SG, section 3.2.1; widths are the defaults of fairseq's s2t_transformer
build = partial(Translator, shape=SHAPE)
