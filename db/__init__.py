"""What we know: every measurement ever taken, in a SQL database."""
