"""Messages of the client, as a user sees them."""

import re

BEGINNING = re.compile(r"tracker-daemon(, rank \d+)?: ")


def texts_of(records):
    """The client's messages without their beginning, which each of them must have."""
    texts = [record.getMessage() for record in records if record.name == "tracker_client"]
    assert all(map(BEGINNING.match, texts)), texts
    return [BEGINNING.sub("", text, count=1) for text in texts]
