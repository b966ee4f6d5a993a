"""Features in, hypotheses and scores out."""
