"""``python -m tracker_daemon``: the command."""

from tracker_daemon.entry import main

if __name__ == "__main__":
    main()
