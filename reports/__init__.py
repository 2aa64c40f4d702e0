"""What we tell: stored measurements and decisions turned into text, as pure functions."""
