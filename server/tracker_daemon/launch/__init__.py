"""``run``: a daemon for one command, as two child processes and what happens to them."""
