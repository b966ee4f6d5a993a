"""Parts that every native upstream shares; all compute valid frames only."""
