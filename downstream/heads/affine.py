"""One linear layer per frame: the least that can read a representation."""

from wavbench.downstream.stacked import StackedLinear

build = StackedLinear
