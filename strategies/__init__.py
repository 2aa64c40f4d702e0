"""What can be computed, and how: problems, patterns, configurations and the strategies that run them."""
