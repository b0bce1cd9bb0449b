"""Headers edited as upstream might edit them: what the generator makes of each."""
